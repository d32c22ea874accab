"""Features of pictures by pretrained networks: loading, resizing, batching, caching."""
