"""One detector with its assigner: built, optimised, kept."""
