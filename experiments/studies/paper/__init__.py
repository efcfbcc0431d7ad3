"""The reference paper, item by item: each figure and table is one config here and one command.

    python -m experiments.studies.paper figure1            # runs what is missing, writes docs/paper/figure1.{webp,json}
    python -m experiments.studies.paper all                # every item, and the page that holds them: docs/paper.md
    python -m experiments.studies.paper table2 --faces FOLDER --prior PRIOR --embedder MODEL.onnx

The paper is "Exploring User-level Gradient Inversion with a Diffusion Prior" (Li et al. 2023, arXiv 2409.07291).
"""
