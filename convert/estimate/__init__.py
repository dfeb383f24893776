"""What a model takes of memory while llama.cpp runs it, calculated from a GGUF file's metadata and tensor shapes.

    model_file.py   what is looked at: metadata fields, names, shapes and bytes of tensors
    setting.py      how it is run: context, types of the cache, batch, texts at once
    hyper.py        the model's layers, as llama.cpp reads them out of the metadata
    cache.py        keys, values and recurrent states, by layer
    compute.py      the largest buffer that a pass over a batch needs
    projector.py    the same of an image's encoder
    memory.py       all of it together, on a GPU, on a CPU, or shared between the two
    fit.py          how much of a budget is left for the model's weights
    speed.py        tokens a second that a memory bandwidth allows
    amounts.py      8GB, 8GiB, 16k, 400GB/s

Nothing here knows a command line, a recipe or a file on a disk.
Facts are from llama.cpp's src/llama-kv-cache*.cpp, llama-memory-recurrent.cpp, llama-graph.cpp, llama-hparams.cpp and
src/models/*.cpp at build 11549, and compared with what it reports (tests/bench/memory.py).
"""
