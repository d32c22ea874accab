"""The harness: command line, runner, engine, metrics, papers."""
