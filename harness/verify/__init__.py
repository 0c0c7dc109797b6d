"""Is an assigner what it claims to be: the questions of the contract, and published answers to compare with.

    scenes      hypothesis strategies of detection scenes
    contract    the catalogue of checks; form, symmetry, running and gradients hold them
    golden      cases with the answers of published implementations ("peers")
    oracles     the slow NumPy versions of a source checkout, and what they are asked
    peers       which peer belongs to which assigner, and the oracle that imitates it
    compare     the verdicts; agreement counts what agrees
    subject     the assigner in question, by name or from a file

Hypothesis is imported here alone, so that nothing else of the harness waits for it.
"""
