"""The site: one static folder of rendered pages, figures, documents and the library's reference.

It runs no script and asks nothing of any server. Text is escaped, and HTML of pages and outputs is sanitised.
"""

import ast
import base64
import json
import re
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import bleach
import jinja2
from bleach.css_sanitizer import CSSSanitizer
from bs4 import BeautifulSoup, Tag
from nbconvert.filters import Highlight2HTML, ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

import perser
from perser.analysis import expected
from perser.errors import UserError
from perser.records import whole

DOCUMENTS = ("README.md", "ARTIFACT.md", "CONTRIBUTING.md")
GROUPS = ("Pages", "Results", "Documents", "Reference")
NO_REFERENCE = ("cli", "__main__")  # commands, which have --help
SHORT = 24  # characters of a table's cell that stay in one line
LONG = 40  # a page with more headings lists only the upper ones
LEAD = 220  # characters of a page's first sentences on the start page
# Of HTML that is not ours, this stays; other tags go and their text stays.
TAGS = {"a", "abbr", "audio", "b", "blockquote", "br", "caption", "code", "dd", "del", "details", "div", "dl", "dt",
        "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "kbd", "li", "ol", "p",
        "pre", "s", "small", "source", "span", "strong", "sub", "summary", "sup", "table", "tbody", "td", "tfoot", "th",
        "thead", "tr", "u", "ul"}
DROPPED = ("iframe", "math", "noscript", "object", "script", "style", "svg", "template")  # with all that is in them
ATTRIBUTES = {"align", "alt", "class", "colspan", "controls", "height", "open", "rowspan", "scope", "start", "style",
              "title", "width"}
ADDRESSES = {"a": r"(https?:|mailto:)\S*|[^:]*", "img": r"data:image/(png|jpeg);base64,[\w+/=\s]*|[^:]*",
             "audio": r"data:audio/[\w.+-]+;base64,[\w+/=\s]*", "source": r"data:audio/[\w.+-]+;base64,[\w+/=\s]*"}
STYLES = CSSSanitizer(allowed_css_properties=["background-color", "color", "font-weight", "text-align"])
SHOWN = ("text/html", "text/markdown", "image/png", "image/jpeg", "text/plain")  # the richest form of an output wins


Modules = dict[str, tuple[Path, ast.Module]]  # name -> file and what it holds


class Page(NamedTuple):
    """A page of the site before its links are set.

    source: the file or folder it shows; links of its body are relative to its folder.
    """

    file: str
    title: str
    group: str
    source: Path
    body: str


class Site(NamedTuple):
    """Where things are: addresses of pages by the path of what they show, and by names that stand in text."""

    out: Path
    root: Path
    places: dict[Path, str]
    names: dict[str, str]


def build(out: Path, results: Path, notebooks: Path) -> Path:
    """Write the site of a checkout, whose root is the folder of `results`; returns its start page.

    Raises UserError where a link leads nowhere, a notebook cannot be read, or `out` holds other files.
    """
    root, out = results.resolve().parent, out.absolute()
    if out.is_dir() and any(out.iterdir()) and not (out / "site.css").is_file():
        raise UserError(f"{out}: holds other files, which this might overwrite; give --out a new folder")
    modules = _modules(root / "perser")
    pages = [*_notebooks(notebooks, root), *_figures(root / "figures", results), *_documents(root),
             *_reference(modules)]
    site = Site(out, root, *_addresses(pages, modules, root))
    menu = {group: [page for page in pages if page.group == group] for group in GROUPS}
    soups = {page.file: BeautifulSoup(page.body, "html.parser") for page in pages}
    leads = {page.file: _lead(soups[page.file]) for page in pages}
    contents = {page.file: _finish(page, soups[page.file], site) for page in pages}
    for page, before, after in zip(pages, [None, *pages], [*pages[1:], None]):
        _write(out / page.file, menu=menu, page=page, body=str(soups[page.file]), contents=contents[page.file],
               before=before, after=after)
    readme = soups.get("README.html")
    figure, judged = readme.find("a", class_="picture") if readme else None, _judged(results)
    sections = ["Claims"] * bool(judged) + [group for group in menu if menu[group]]
    _write(out / "index.html", menu=menu, page=None, contents=[(2, name.lower(), name) for name in sections],
           leads=leads, lead=leads.get("README.html", ""), figure=str(figure or ""),
           judged=judged, headline=expected.headline, effect=expected.effect)
    with whole(out / "site.css") as half:
        shutil.copyfile(Path(__file__).with_name("site.css"), half)
    return out / "index.html"


def _write(path: Path, **values: Any) -> None:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    text = environment.from_string(Path(__file__).with_name("site.html").read_text(encoding="utf-8")).render(**values)
    with whole(path) as half:
        half.write_text(text, encoding="utf-8")


def _judged(results: Path) -> list[expected.Judged]:
    path = results / "expected.toml"
    return expected.judge(expected.read(path), results.absolute().parent) if path.is_file() else []


def sanitised(text: str) -> str:
    """HTML without scripts, styles of its own, unknown tags, and addresses that a page would load from elsewhere.

    >>> sanitised('<p onclick="x()">a<script>b</script><img src="//c.org/d.png"><a href="javascript:e">f</a></p>')
    '<p>a<img><a>f</a></p>'
    """
    if re.search(f"<({'|'.join(DROPPED)})", text, re.IGNORECASE):
        soup = BeautifulSoup(text, "html.parser")
        for tag in soup.find_all(DROPPED):
            tag.decompose()
        text = str(soup)
    return bleach.clean(text, TAGS, _allowed, {"http", "https", "mailto", "data"}, strip=True, css_sanitizer=STYLES)


def _allowed(tag: str, name: str, value: str) -> bool:
    if name in ("href", "src"):
        return bool(re.fullmatch(ADDRESSES.get(tag, "(?!)"), value, re.IGNORECASE)) and value[:1] not in ("/", "\\")
    return name in ATTRIBUTES


def _markdown(text: str) -> str:
    """Markdown as HTML, sanitised where it holds HTML: without, the renderer escapes everything."""
    raw = re.search(r"<[a-z/!?]", text, re.IGNORECASE)
    rendered = MarkdownWithMath(renderer=IPythonRenderer(escape=not raw, exclude_anchor_links=True)).render(text)
    return sanitised(rendered) if raw else rendered


def _code(text: str) -> str:
    return str(Highlight2HTML(pygments_lexer="python")(text)).replace(" highlight hl-python", "highlight")


def _fold(name: str, body: str) -> str:
    return f'<details class="code"><summary>{escape(name)}</summary>{body}</details>'


def _notebooks(folder: Path, root: Path) -> Iterator[Page]:
    """The executed notebooks of a folder. Their links are as in the checkout, wherever the folder is."""
    for path in sorted(folder.glob("*.ipynb")):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            body = "\n".join(_cell(cell) for cell in cells)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: is no notebook ({error!r}); render the notebooks again") from None
        title = f"{path.stem.partition('_')[0]} {_title(body)}"
        yield Page(f"{path.stem}.html", title, "Pages", root / "notebooks" / path.name, body)


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return _markdown(source) if cell["cell_type"] == "markdown" else ""
    return "\n".join([_fold("Code", _code(source)) if source.strip() else "", *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    """The richest form of an output that is shown."""
    if output["output_type"] == "stream":
        return f'<pre class="printed">{ansi2html("".join(output["text"]))}</pre>'
    if output["output_type"] == "error":
        return f"<pre>{ansi2html(chr(10).join(output['traceback']))}</pre>"
    kind = next((kind for kind in SHOWN if kind in output["data"]), "")
    text = "".join(output["data"].get(kind, ""))
    if kind.startswith("image/"):
        about = output.get("metadata", {}).get(kind, {})
        kept = "".join(f' {name}="{escape(str(about[name]))}"' for name in ("width", "alt") if about.get(name))
        return f'<p><img src="data:{kind};base64,{escape("".join(text.split()))}"{kept}></p>'
    if kind == "text/html":
        return sanitised(text)
    return _markdown(text) if kind == "text/markdown" else f"<pre>{escape(text)}</pre>"


def _title(body: str) -> str:
    heading = re.search("<h1.*?</h1>", body, re.DOTALL)
    return BeautifulSoup(heading[0], "html.parser").get_text(" ", strip=True) if heading else ""


def _documents(root: Path) -> Iterator[Page]:
    for path in (root / name for name in DOCUMENTS):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            yield Page(f"{path.stem}.html", path.stem.capitalize(), "Documents", path, _markdown(text))


def _figures(folder: Path, results: Path) -> Iterator[Page]:
    """A page per corpus, which compares upstreams, and per upstream: figures and tables of all experiments."""
    for place in sorted(path for depth in ("*", "*/*") for path in folder.glob(depth)):
        below = "*" if place.parent == folder else "*/*"
        stems = sorted({path.with_name(path.stem) for kind in ("png", "md") for path in place.glob(f"{below}.{kind}")})
        if stems and (results / place.relative_to(folder)).is_dir():
            title = ", ".join(place.relative_to(folder).parts)
            body, section = [f"<h1>All results: {escape(title)}</h1>"], ""
            for stem in stems:
                if stem.parent.name != section and stem.parent != place:
                    section = stem.parent.name
                    body.append(f"<h2>{escape(section)}</h2>")
                body.append(_result(stem, place, title))
            yield Page(f"results-{'-'.join(place.relative_to(folder).parts)}.html", title, "Results", place / "x",
                       "\n".join(body))


def _result(stem: Path, place: Path, title: str) -> str:
    """A figure, and the table of the same name in a fold."""
    name, link = stem.name.replace("-", " ").capitalize(), escape(stem.relative_to(place).as_posix())
    parts = [f"<h3>{escape(name)}</h3>"]
    if (place / f"{link}.png").is_file():
        parts.append(f'<p><img src="{link}.png" width="560" alt="{escape(name)}: figure of {escape(title)}"></p>')
    if (place / f"{link}.md").is_file():
        table = _markdown((place / f"{link}.md").read_text(encoding="utf-8"))
        csv = f'<p><a href="{link}.csv">The same as CSV</a></p>' if (place / f"{link}.csv").is_file() else ""
        parts.append(_fold("Table", table + csv))
    return "\n".join(parts)


def _modules(folder: Path) -> Modules:
    """The modules of a library, in the order of their names; none where there is no such folder."""
    paths = {".".join((folder.name, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
             for path in folder.rglob("*.py") if path.stem not in NO_REFERENCE and path.parent.name != "__pycache__"}
    return {name: (path, ast.parse(path.read_text(encoding="utf-8"))) for name, path in sorted(paths.items())}


def _at(anchor: str, modules: Modules) -> str:
    """The address of a module or definition: its folder's page."""
    package = ".".join(anchor.split(".")[:2])
    inside = package in modules and modules[package][0].name == "__init__.py"
    return f"api-{package if inside else 'perser'}.html#{anchor}"


def _reference(modules: Modules) -> Iterator[Page]:
    """What `import perser` offers, then a page per folder of the library."""
    if not modules:
        return
    about = {name: _summary(tree) for name, (_, tree) in modules.items()}
    about |= {f"{name}.{node.name}": _summary(node) for name, (_, tree) in modules.items() for node in _public(tree)}
    targets = {f"perser.{name}": target.replace(":", ".") for name, target in perser._NAMES.items()}
    targets = {name: target if target in about else target.rpartition(".")[0] for name, target in targets.items()}
    tables = ["".join(f'<tr><td><a href="{_at(target, modules)}"><code>{name}</code></a></td><td>{about[target]}</td>'
                      for name, target in rows) for rows in (targets.items(), zip(modules, modules))]
    yield Page("api.html", "The library", "Reference", modules["perser"][0],
               f"<h1>The library</h1>{_doc(modules['perser'][1])}<h2>Names</h2><table>{tables[0]}</table>"
               f"<h2>Modules</h2><table>{tables[1]}</table>")
    files = {name: _at(name, modules).partition("#")[0] for name in modules}
    for file in sorted(set(files.values())):
        inside = {name: modules[name] for name in modules if files[name] == file}
        title = file.removeprefix("api-").removesuffix(".html")
        body = "\n".join([f"<h1>{title}</h1>", *(_module(name, *part) for name, part in inside.items())])
        yield Page(file, title, "Reference", inside[min(inside)][0].parent, body)


def _public(tree: ast.AST) -> list[Any]:
    """The definitions of a module or class whose names have no leading underscore."""
    return [node for node in ast.iter_child_nodes(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")]


def _summary(node: Any) -> str:
    return _text((ast.get_docstring(node) or "").partition("\n")[0])


def _text(text: str) -> str:
    """Escaped text, with what is between backticks as code."""
    return re.sub(r"`([^`\n]+)`", r"<code>\1</code>", escape(text, quote=False))


def _doc(node: Any) -> str:
    """A docstring: paragraphs, and examples as they stand."""
    parts = re.split(r"\n\s*\n", ast.get_docstring(node) or "")
    return "".join(f"<pre>{escape(part)}</pre>" if re.search("^( |>>> )", part, re.MULTILINE) else
                   f"<p>{_text(part)}</p>" for part in parts if part.strip())


def _module(name: str, path: Path, tree: ast.Module) -> str:
    """A module: its docstring, its public definitions, its source in a fold."""
    definitions = "\n".join(_definition(node, name, 3) for node in _public(tree))
    source = _fold("Source", f"<pre>{escape(path.read_text(encoding='utf-8'))}</pre>")
    return f'<h2 id="{name}"><code>{name}</code></h2>{_doc(tree)}{definitions}{source}'


def _definition(node: Any, parent: str, level: int) -> str:
    """A function or class with its signature, docstring, fields and methods."""
    anchor, inner = f"{parent}.{node.name}", ""
    if isinstance(node, ast.ClassDef):
        signature = f"class {node.name}({', '.join(map(ast.unparse, node.bases))})".removesuffix("()")
        fields = [f"    {ast.unparse(part)}" for part in node.body if isinstance(part, ast.AnnAssign)]
        signature = "\n".join([signature, *fields])
        inner = "\n".join(_definition(method, anchor, level + 1) for method in _public(node))
    else:
        signature = f"{node.name}({ast.unparse(node.args)})"
        signature += f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return (f'<h{level} id="{anchor}"><code>{node.name}</code></h{level}>'
            f'<pre class="signature">{escape(signature)}</pre>{_doc(node)}{inner}')


def _addresses(pages: list[Page], modules: Modules, root: Path) -> tuple[dict[Path, str], dict[str, str]]:
    """The addresses of pages by what they show, and by words in code: files of the library and names of notebooks."""
    places = {page.source: page.file for page in pages}
    places |= {root / "notebooks": "index.html#pages", root / "results": "index.html#results",
               root / "figures": "index.html#results"}
    places |= {path: _at(name, modules) for name, (path, _) in modules.items()}
    names = {source.relative_to(root).as_posix(): place for source, place in places.items() if source.suffix == ".py"}
    return places, names | {page.source.stem: page.file for page in pages if page.group == "Pages"}


def _lead(soup: BeautifulSoup) -> str:
    """The first sentences of a page, as many as fit."""
    first = soup.find("p")
    sentences = re.split(r"(?<=[.?!])\s+", " ".join(first.get_text().split())) if first else [""]
    lead = sentences[0]
    for sentence in sentences[1:]:
        if len(lead) + len(sentence) > LEAD:
            break
        lead += f" {sentence}"
    return lead


def _finish(page: Page, soup: BeautifulSoup, site: Site) -> list[tuple[int, str, str]]:
    """Set the page's links, pictures, tables and anchors; returns its contents: level, anchor, text."""
    contents = _contents(soup, page.title)
    for link in soup.find_all("a", href=True):
        if page.group != "Reference" and not str(link["href"]).startswith("#"):
            _set(link, "href", _address(str(link["href"]), page, site))
    for code in soup.find_all("code"):
        if (address := site.names.get(code.get_text())) and address != page.file and not code.find_parent(["a", "pre"]):
            code.wrap(soup.new_tag("a", href=address))
    for image in soup.find_all("img", src=False):  # its address was not allowed
        image.decompose()
    for number, image in enumerate(soup.find_all("img"), start=1):
        _picture(image, number, page, soup, site)
    for table in soup.find_all("table"):
        for cell in table.find_all("td"):
            if len(cell.get_text()) <= SHORT:
                cell["class"] = "short"
        table.wrap(soup.new_tag("div", attrs={"class": "wide", "tabindex": "0", "role": "region",
                                              "aria-label": "Table"}))
    for number, sound in enumerate(soup.find_all("audio"), start=1):
        sound["aria-label"], sound["preload"] = f"Clip {number}", "none"
    return contents


def _contents(soup: BeautifulSoup, title: str) -> list[tuple[int, str, str]]:
    """Give all headings an anchor; the lower ones are listed where there are not too many."""
    headings = soup.find_all(re.compile(r"h[1-6]$"))
    taken = {str(heading["id"]) for heading in headings if heading.get("id")}
    for heading in headings:
        stem = re.sub(r"[^\w.]+", "-", heading.get_text().lower()).strip("-") or "part"
        anchor = str(heading.get("id") or next(name for name in (stem, *(f"{stem}-{n}" for n in range(2, 1000)))
                                               if name not in taken))
        taken.add(anchor)
        heading["id"] = anchor
    listed = [(int(heading.name[1]), str(heading["id"]), heading.get_text().removeprefix(f"{title}."))
              for heading in headings]
    upper = [entry for entry in listed if entry[0] in (2, 3)]
    return upper if len(upper) <= LONG else [entry for entry in upper if entry[0] == 2]


def _set(tag: Tag, name: str, value: str | None) -> None:
    """Set an attribute, or leave the tag's text alone where there is nothing to link to."""
    if value is None:
        tag.unwrap()
    else:
        tag[name] = value


def _address(link: str, page: Page, site: Site) -> str | None:
    """The address within the site of a link of a page. A linked file that is no page is copied; None: a bare folder.

    Raises UserError where there is no such file in the checkout.
    """
    parts = urlsplit(link)
    if parts.scheme:
        return link
    path = Path(page.source.parent, unquote(parts.path)).resolve()
    anchor = f"#{parts.fragment}" * bool(parts.fragment)
    if path in site.places:
        place = site.places[path]
        return place if "#" in place else place + anchor
    if not path.is_relative_to(site.root.resolve()) or not path.exists():
        raise UserError(f"{page.source}: links to {link}, which is not in the checkout; correct the link")
    if path.is_dir() or path.suffix in (".html", ".svg"):
        return None
    copied = "files/" + path.relative_to(site.root.resolve()).as_posix()
    with whole(site.out / copied) as half:
        shutil.copyfile(path, half)
    return copied


def _picture(image: Tag, number: int, page: Page, soup: BeautifulSoup, site: Site) -> None:
    """Store a picture, give it words, and link it to itself in full size."""
    source = str(image.get("src", ""))
    if source.startswith("data:"):
        kind, _, data = source.removeprefix("data:image/").partition(";base64,")
        address = f"files/{Path(page.file).stem}-{number}.{kind}"
        with whole(site.out / address) as half:
            half.write_bytes(base64.b64decode(data))
    elif urlsplit(source).scheme or not (address := _address(source, page, site) or "").startswith("files/"):
        raise UserError(f"{page.source}: shows {source}, which is no picture in the checkout; copy it there")
    heading = image.find_previous(re.compile(r"h[1-6]$"))
    image["src"], image["loading"] = address, "lazy"
    image["alt"] = image.get("alt") or f"Figure {number}: {heading.get_text() if heading else page.title}"
    if not image.find_parent("a"):
        image.wrap(soup.new_tag("a", attrs={"class": "picture", "href": address, "title": "Full size"}))
