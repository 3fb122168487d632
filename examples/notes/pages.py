"""Makes the page from its template, when the image is built."""

import html
import os
import string

with open("template.html", encoding="utf-8") as file:
    template = string.Template(file.read())
print(template.substitute(title=html.escape(os.environ["TITLE"])), end="")
