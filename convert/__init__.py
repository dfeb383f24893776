"""One recipe turns a model into every format people run, and proves that each output still is that model.

from convert import load_recipe, plan, run
result = run(plan(load_recipe("recipes/demo.yaml"), out="out"))
"""

from convert.batch import batch
from convert.errors import ConvertError, PlanError, Problem, RecipeError
from convert.plan import plan
from convert.recipe import Recipe, load_recipe
from convert.run import Result, run
from convert.steps import Plan, Step

__all__ = [
    "ConvertError",
    "Plan",
    "PlanError",
    "Problem",
    "Recipe",
    "RecipeError",
    "Result",
    "Step",
    "batch",
    "load_recipe",
    "plan",
    "run",
]
