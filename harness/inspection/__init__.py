"""What an assigner does with one image, why, and how it looks."""
