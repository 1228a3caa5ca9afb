"""Answers to the questions of a plan, one module per kind of question.

Read `quantities` (the numbers), `comparisons` (their verdicts), `context` (a question with its arms),
`arm_differences` and `image_sampling` first, then `dispatch`, then any kind: `accuracy`, `learning`, `cost`,
`label_curves`, `surface`.
"""
