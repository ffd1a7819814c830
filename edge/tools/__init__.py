"""Commands for people: files, measurements, the examination of a machine, the report of a day."""
