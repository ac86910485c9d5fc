"""What runs inside a target: a directory for PYTHONPATH, stdlib only, Python 3.8 to 3.14.

The interpreter imports `sitecustomize` from here as it starts. Nothing in this directory imports from
`faults`, and the controller imports from it only the layout of the shared page.
"""
