"""Tables and pictures of the experiments, and what of them stands in the README.

python report.py --output_folder results/reproduction
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

from report_pictures import draw_audio, draw_curves
from report_tables import by_condition, losses_tables, steps_table

from speechbrain_diffasr.evaluation.report import draw_picture

# What the README shows below each table.
PICTURES = {
    "losses": {
        "losses_unlock.png": "Losses and error rate of validation, with and without CTC",
        "losses_leave_one_out.png": "The same, with each of the losses left out",
        "losses_audio.png": "With the own and with another's audio",
    },
    "steps": {"steps.png": "Error rates and speed over denoising steps"},
}


def write_losses(output_folder):
    """Writes tables and pictures of what losses.json holds, finished or not.

    Arguments
    ---------
    output_folder : str or Path
        Holds losses.json; gets losses.md, losses_unlock.png, losses_leave_one_out.png and
        losses_audio.png.
    """
    folder = Path(output_folder)
    report = json.loads((folder / "losses.json").read_text(encoding="utf-8"))
    (folder / "losses.md").write_text(losses_tables(report), encoding="utf-8")
    conditions = by_condition(report)
    first = {name: conditions[name] for name in ("all", "no_ctc") if name in conditions}
    draw_curves(first, folder / "losses_unlock.png")
    draw_curves(conditions, folder / "losses_leave_one_out.png")
    draw_audio(conditions, folder / "losses_audio.png")


def write_steps(output_folder):
    """Writes a table and a picture of what steps/results.json holds.

    Arguments
    ---------
    output_folder : str or Path
        Holds steps/results.json; gets steps.md and steps.png.
    """
    folder = Path(output_folder)
    report = json.loads((folder / "steps" / "results.json").read_text(encoding="utf-8"))
    (folder / "steps.md").write_text(steps_table(report), encoding="utf-8")
    draw_picture(report, folder / "steps.png")


def fill_readme(path, output_folder):
    """Puts the tables between their marks in a README, and the pictures beside it.

    Arguments
    ---------
    path : str or Path
        Holds lines `<!-- NAME -->` and `<!-- /NAME -->`, NAME being losses or steps.
    output_folder : str or Path
        Of the experiments.

    Returns
    -------
    names : list of str
        Of the tables that were there.
    """
    path, folder = Path(path), Path(output_folder)
    text, found = path.read_text(encoding="utf-8"), []
    for name, pictures in PICTURES.items():
        table = folder / f"{name}.md"
        if not table.exists():
            continue
        block = f"<!-- {name} -->\n{table.read_text(encoding='utf-8')}"
        for picture, described in pictures.items():
            if (folder / picture).exists():
                shutil.copyfile(folder / picture, path.parent / picture)
                block += f"\n![{described}]({picture})\n"
        block += f"<!-- /{name} -->"
        marks = rf"<!-- {name} -->\n.*?<!-- /{name} -->"
        text, count = re.subn(marks, lambda _, block=block: block, text, flags=re.DOTALL)
        if not count:
            raise ValueError(f"{path}: no lines <!-- {name} --> and <!-- /{name} -->; add them")
        found.append(name)
    path.write_text(text, encoding="utf-8")
    return found


def main(argv=None):
    """Writes tables and pictures of what there is, and puts them into the README."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output_folder",
        default="results/reproduction",
        metavar="PATH",
        help="of losses.py and steps.py [default: %(default)s]",
    )
    parser.add_argument(
        "--readme", default=here / "README.md", metavar="PATH", help="to fill [default: beside it]"
    )
    args = parser.parse_args(argv)
    folder = Path(args.output_folder)
    try:
        if (folder / "losses.json").exists():
            write_losses(folder)
        if (folder / "steps" / "results.json").exists():
            write_steps(folder)
        found = fill_readme(args.readme, folder)
    except (OSError, ValueError) as error:
        sys.exit(f"report.py: {error}")
    if not found:
        sys.exit(f"report.py: {folder}: neither losses.json nor steps; run losses.py or steps.py")
    print(f"{args.readme}: {' and '.join(found)}")


if __name__ == "__main__":
    main()
