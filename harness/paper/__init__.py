"""The paper's tables and figures as commands: what it prints, which runs stand for each row, and both side by side.

rows      each row as an assigner and what else it changes
scales    the protocol, the data and the stand-ins of a backbone, at the paper's size or a smaller one
published what the paper prints, from results/published
planning  the runs of a table, looked up in the store
outcome   paper | ours | gain | verdict
written   Markdown, CSV and JSON
"""
