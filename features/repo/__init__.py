"""What the `feast` command reads: `definitions.py` is the one module it scans; its feature_store.yaml is written under the home.

    feast -c "$(python -c 'import features.repo as r; print(r.__path__[0])')" -f <home>/feast/<shop>.yaml feature-views list

`shopgraph features apply` writes the file and prints this line with both paths filled in.
"""
