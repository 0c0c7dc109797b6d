"""What a run leaves behind: its record, its details, where they lie, what they are called."""
