"""Tables, run files and study results turned into terminal tables, pictures and pages."""
