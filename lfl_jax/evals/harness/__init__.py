"""Tasks of lm-evaluation-harness on our models: `bridge.run` is the way in.

model       the methods that the harness calls, answered by a scorer
grouping    requests that begin alike
decoding    a task's generation_kwargs as settings of our sampler
answers     results by request, in a file that a killed evaluation resumes from
documents   fetched documents in place of downloads
index       the harness's index of tasks, with those documents, and an environment without network
"""
