"""Is an assigner what it claims to be: the questions of the contract, and published answers to compare with.

    subject     the assigner in question, by name or from a file
    scenes      hypothesis strategies of detection scenes
    checks/     the catalogue of checks; form, symmetry, running and gradients hold them
    published/  cases with the answers of published implementations ("peers"); oracles/, slow NumPy versions that
                imitate them; which peer belongs to which assigner; the verdicts, and what agrees

Hypothesis is imported here alone, so that nothing else of the harness waits for it.
"""
