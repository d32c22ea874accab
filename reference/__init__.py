"""The methods, as a person would copy them out. Nothing here reads a file, parses an option or knows a table."""
