"""Networks from torchvision, timm and the user's code.

Read `source` (the interface of an origin), `torchvision_models`, `timm_models` and `own_code`, then `load` (a new
network with weights) and `rebuild` (the network of an architecture record).
"""
