"""What the process imports that others are forked from: most of a short command's time is imports."""

import tokenizers
import torch
import transformers

import convert.cli.commands.batch
import convert.cli.commands.inspect
import convert.cli.commands.plan
import convert.cli.commands.run
import convert.cli.console
import convert.plan
import convert.recipe
import convert.run
import convert.source.stage
from convert import architectures, registry

for _name in registry.names():
    registry.load(_name)
architectures.listed()
for _format in registry.formats():
    _ = _format.kinds
__all__ = ["convert", "tokenizers", "torch", "transformers"]
