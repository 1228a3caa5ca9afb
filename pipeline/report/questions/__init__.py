"""Answers to the questions of a plan, one module per kind of question.

Read `quantities` (the numbers), `comparisons` (their verdicts) and `context` (a question with its arms) first, then
`dispatch`, then any kind: `accuracy`, `learning`, `cost`, `label_curves`, `surface`.
"""
