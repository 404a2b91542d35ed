"""`msanet recipes`: what is shipped, what it needs and gives; or the text of one recipe."""

from collections.abc import Sequence

from msanet.cli.parser import new_parser, parse
from msanet.config.recipes import RECIPES, SWEEPS, Recipe, find_config, list_recipes

_DETAILS = "A name is what --config of msanet train (or, for a sweep, of msanet sweep) takes."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("recipes", "recipes camvid", _DETAILS)
    parser.add_argument("name", nargs="?", help="print this recipe; without, list all")
    parser.add_argument("--sweep", action="store_true", help="print the sweep of that name")
    arguments = parse(parser, argv)
    if arguments.name:
        path = find_config(arguments.name, folder=SWEEPS if arguments.sweep else RECIPES)
        print(path.read_text(encoding="utf-8"), end="")
    else:
        print("recipes (msanet train --config NAME):\n")
        print("\n".join(_shown(recipe) for recipe in list_recipes()))
        print("\nsweeps (msanet sweep --config NAME):\n")
        print("\n".join(_shown(recipe) for recipe in list_recipes(SWEEPS)))
    return 0


def _shown(recipe: Recipe) -> str:
    lines = [f"  {recipe.name}", f"      {recipe.summary}"]
    lines += [f"      needs: {recipe.needs}"] if recipe.needs else []
    lines += [f"      gives: {recipe.gives}"] if recipe.gives else []
    return "\n".join(lines)
