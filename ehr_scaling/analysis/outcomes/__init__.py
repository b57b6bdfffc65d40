"""From loss to bedside: scores of outcomes, and the AUROC that goes with a loss."""
