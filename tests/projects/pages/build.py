"""Makes a site of pages: a heading in the first line of each file, paragraphs below."""

import html
import pathlib
import string
import sys


def page(text: str, template: string.Template) -> str:
    title, _, rest = text.strip().partition("\n")
    paragraphs = [f"<p>{html.escape(part.strip())}</p>" for part in rest.strip().split("\n\n")]
    return template.substitute(title=html.escape(title.lstrip("# ")), body="\n".join(paragraphs))


def main(source: str, target: str) -> None:
    template = string.Template(pathlib.Path("template.html").read_text())
    folder = pathlib.Path(target)
    folder.mkdir(parents=True)
    pages = sorted(pathlib.Path(source).glob("*.md"))
    for path in pages:
        (folder / f"{path.stem}.html").write_text(page(path.read_text(), template))
    print(f"{len(pages)} pages")


main(*sys.argv[1:])
