"""The last pass: reports what a run did, as one HTML page and as a table in the terminal."""
