"""Networks that this project did not define: torchvision's, timm's and the user's own.

Read `source` (what an origin offers), `torchvision_models`, `timm_models` and `own_code`, then `load` (a new network,
with weights) and `rebuild` (the network of an architecture record).
"""
