"""Reading and writing files: atomic outputs, JSON whose every error names the file and the line."""
