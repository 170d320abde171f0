"""The paper's ablation on rooms: rows as data, their runs, and the tables made of them (``vidllm ablate``)."""
