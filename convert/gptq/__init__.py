"""GPTQ and AWQ checkpoints: gptqmodel in a process of its own does the arithmetic, the folder around it is ours."""
