"""The site as a reader's browser shows it, from file://, and as a parser reads it."""

import ast
import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

import perser as library
from perser import site
from perser.analysis import expected
from perser.cli import main
from perser.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The site of this checkout, as the command writes it."""
    out = tmp_path_factory.mktemp("site") / "out"
    with pytest.raises(SystemExit) as stop:
        main.main(["site", "--out", str(out), *(word for name in ("results", "notebooks")
                                                for word in (f"--{name}", str(ROOT / name)))])
    assert stop.value.code == 0
    return out


@pytest.fixture(scope="module")
def soups(built):
    """Its pages, parsed."""
    return {path.name: BeautifulSoup(path.read_text(encoding="utf-8"), "lxml") for path in sorted(built.glob("*.html"))}


def checkout(folder, cells=(), readme="# Name\n\nWhat it is.\n"):
    """A checkout with one notebook, no results and a README: what its site needs."""
    for name in ("results", "notebooks"):
        (folder / name).mkdir(parents=True)
    (folder / "README.md").write_text(readme)
    (folder / "notebooks" / "00_page.ipynb").write_text(json.dumps({"cells": list(cells)}))
    return site.build(folder / "site", folder / "results", folder / "notebooks").parent


def markdown(text):
    return {"cell_type": "markdown", "source": [text], "metadata": {}}


def shown(**data):
    """A code cell that displays data."""
    output = {"output_type": "display_data", "data": {kind.replace("_", "/"): text for kind, text in data.items()}}
    return {"cell_type": "code", "source": ["show()"], "metadata": {}, "outputs": [output]}


def test_every_page_is_sound_in_a_browser_on_desk_and_phone(built, visit):
    opened, faults = visit((built / "index.html").as_uri()), {}
    for path in sorted(built.glob("*.html")):
        opened.page.goto(path.as_uri())
        opened.page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
        for width in (1000, 400):
            opened.page.set_viewport_size({"width": width, "height": 800})
            if wider := opened.sideways():
                faults[path.name, width] = f"{wider} pixels too wide"
        nameless = opened.page.evaluate("[...document.images].filter(one => !one.alt.trim()).length")
        if nameless or opened.errors or opened.elsewhere():
            faults[path.name] = nameless, opened.errors[:], opened.elsewhere()
    assert not faults
    assert {urlsplit(url).scheme for url in opened.requests} == {"file"}


def test_all_links_and_anchors_resolve_inside_the_site(built, soups):
    anchors = {name: {tag["id"] for tag in soup.find_all(id=True)} for name, soup in soups.items()}
    broken, count = [], 0
    for name, soup in soups.items():
        for tag in soup.find_all(["a", "img", "link", "source"]):
            link = str(tag.get("href") or tag.get("src") or "")
            parts = urlsplit(link)
            if (parts.scheme in ("http", "https") and tag.name == "a") or link.startswith("data:audio/"):
                continue
            count += 1
            target = unquote(parts.path) or name
            inside = (built / target).resolve().is_relative_to(built.resolve()) and not parts.scheme
            if not (link and inside and (built / target).is_file() and
                    (not parts.fragment or unquote(parts.fragment) in anchors[target])):
                broken.append((name, link))
    assert not broken and count > 1000


def test_pages_run_nothing_and_have_no_anchor_twice(soups):
    for name, soup in soups.items():
        assert not soup.find_all(["script", "iframe", "object", "embed", "form", "base"]), name
        assert not [tag.name for tag in soup.find_all() for key in tag.attrs if key.startswith("on")], name
        assert "default-src 'none'" in soup.find("meta", attrs={"http-equiv": True})["content"]
        assert max(Counter(tag["id"] for tag in soup.find_all(id=True)).values()) == 1, name
        assert len(soup.find_all("h1")) == 1, name


def test_the_start_page_judges_the_claims_and_leads_everywhere(soups):
    start, judged = soups["index.html"], expected.judge(expected.read(ROOT / "results" / "expected.toml"), ROOT)
    words = " ".join(start.get_text().split())
    assert expected.headline(judged) in words
    first, everything = start.find_all("dl")
    assert [one.claim.says for one in judged if one.claim.headline] == [
        tag.contents[0].strip() for tag in first.find_all("dd")]
    assert [one.reproduced for one in judged] == [tag.get_text(strip=True) for tag in everything.find_all("dt")]
    assert {link["href"] for link in start.find_all("a")} >= set(soups) - {"index.html"}
    assert {f"{path.stem}.html" for kind in ("notebooks/*.ipynb", "docs/*.md") for path in ROOT.glob(kind)} < set(soups)


def test_the_reference_has_all_that_is_public(soups):
    assert [tag.get_text() for tag in soups["api.html"].find("table").find_all("code") if tag.find_parent("a")] == [
        f"perser.{name}" for name in library.__all__]
    anchors = {tag["id"] for name, soup in soups.items() if name.startswith("api-") for tag in soup.find_all(id=True)}
    for path in (Path(library.__file__).parent).rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path.stem not in ("cli", "__main__") and module != "perser":
            names = [node.name for node in ast.parse(path.read_text()).body
                     if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
            assert {module, *(f"{module}.{name}" for name in names)} <= anchors
    judge = soups["api-perser.analysis.html"].find(id="perser.analysis.expected.judge")
    assert judge.find_next("pre").get_text() == "judge(claims: list[Claim], root: Path) -> list[Judged]"
    assert judge.find_next("p").get_text().startswith("Verdicts on claims from the results and benchmarks")


def luminance(colour):
    """Relative luminance of rgb(r, g, b) (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_on_paper():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.005)  # #777, as published


COLOURS = """[...document.querySelectorAll(selector)].map(tag => {
    let ground = tag;
    while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)' && ground.parentElement)
        ground = ground.parentElement;
    return [getComputedStyle(tag).color, getComputedStyle(ground).backgroundColor]; })"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_dark(built, visit, scheme):
    opened, least, grounds = visit((built / "index.html").as_uri(), color_scheme=scheme), {}, set()
    for name, tags in {"index.html": ("body", "a", ".verdict", ".soft", "summary"),
                       "04_main_results.html": ("body", "pre", ".highlight span", "td")}.items():
        opened.page.goto((built / name).as_uri())
        for tag in tags:
            pairs = {tuple(pair) for pair in opened.page.evaluate(f"(selector => {COLOURS})({json.dumps(tag)})")}
            least[name, tag] = min(contrast(*pair) for pair in pairs)
        grounds.add(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert min(least.values()) >= 4.5, least
    assert (luminance(grounds.pop()) < 0.05) == (scheme == "dark") and not grounds


def test_code_is_folded_a_figure_opens_in_full_and_audio_plays(built, visit):
    opened = visit((built / "01_corpus_and_listeners.html").as_uri())
    code = opened.page.locator("details.code").first
    assert not code.locator("pre").is_visible()
    code.locator("summary").click()
    assert code.locator("pre").inner_text() == 'corpus = "synthetic"\nroot = "../data/synthetic"\n'
    seconds = opened.page.evaluate("""async () => { const sound = document.querySelector("audio");
        sound.muted = true; await sound.play(); return sound.duration; }""")
    assert 0.5 < seconds < 20
    picture = opened.page.locator("a.picture img").first
    picture.scroll_into_view_if_needed()
    opened.page.wait_for_function("image => image.complete && image.naturalWidth", arg=picture.element_handle())
    width, full = picture.evaluate("image => [image.width, image.naturalWidth]")
    picture.click()
    opened.page.wait_for_url("**/files/*.png")
    assert opened.page.evaluate("document.images[0].naturalWidth") == full > width


def test_print_shows_text_without_navigation(built, visit):
    opened = visit((built / "04_main_results.html").as_uri(), width=718)  # A4 less margins of 1 cm, in CSS pixels
    opened.page.emulate_media(media="print")
    assert opened.sideways() == 0
    assert not any(opened.page.locator(name).is_visible() for name in (".menu", ".contents", ".turn"))
    assert opened.page.locator("article h1").is_visible()


EVIL = """<b>bold</b><script>alert(1)</script><img src=x onerror=alert(1)><img src="https://example.org/a.png">
<a href="jav&#x09;ascript:alert(1)">link</a><a href="//example.org/x">x</a><a href="data:text/html,x">y</a>
<style>p{background:url(https://example.org)}</style><iframe src="https://example.org"></iframe>
<svg onload=alert(1)><script>alert(2)</script></svg><p style="background:url(https://example.org);color:red">red</p>
<form action="https://example.org"><input name=a></form><audio src="https://example.org/a.wav"></audio>"""


@pytest.mark.parametrize("cell", [markdown(EVIL), shown(text_html=EVIL), shown(text_markdown=EVIL),
                                  shown(text_plain=EVIL)])
def test_html_from_elsewhere_runs_and_loads_nothing(tmp_path, visit, cell):
    if cell["cell_type"] == "markdown" or "text/plain" not in cell["outputs"][0]["data"]:
        cell = json.loads(json.dumps(cell).replace("<img src=x onerror=alert(1)>", ""))  # a picture that is not there
    out = checkout(tmp_path / "c", [markdown("# Page"), cell])
    opened = visit((out / "00_page.html").as_uri())
    article = opened.page.locator("article")
    assert not opened.errors and not opened.elsewhere()
    assert article.locator("script, style, iframe, svg, form, input, [onerror], [onload], [src^=http]").count() == 0
    assert "bold" in article.inner_text()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["<", ">", "script", "/", " ", "on", "x=", '"', "'", "img", "src", "href", "a", "svg",
                                 "javascript:", "https://e.org", "data:", "style", "&#106;", "<!--", "-->", "\n", "é",
                                 "`", "*"]), max_size=25).map("".join))
def test_no_markup_gets_through(text):
    for made in (site.sanitised(text), site._markdown(text)):
        for tag in BeautifulSoup(f"<p>{made}", "lxml").find_all():
            assert tag.name in site.TAGS | {"html", "body"} and not any(name.startswith("on") for name in tag.attrs)
            assert not re.match(r"\s*(javascript|data|//)", str(tag.get("href", "")), re.IGNORECASE)
            assert tag.name == "a" or not re.match("https?:|//", str(tag.get("src", "")))


@pytest.mark.parametrize(("readme", "problem"), [
    ("[a](nowhere.md)", "README.md: links to nowhere.md, which is not in the checkout"),
    ("[a](../../outside.txt)", "README.md: links to ../../outside.txt, which is not in the checkout"),
    ("![a](https://example.org/a.png)", "README.md: shows https://example.org/a.png, which is no picture in the"),
    ("![a](results)", "README.md: shows results, which is no picture in the checkout")])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, readme, problem):
    (tmp_path.parent / "outside.txt").write_text("x")
    with pytest.raises(UserError, match=re.escape(problem)):
        checkout(tmp_path / "c", readme=readme)


def test_a_folder_with_other_files_is_left_alone_and_an_earlier_site_is_written_again(tmp_path):
    out = checkout(tmp_path)
    kept = {path.name: path.read_bytes() for path in out.glob("*.html")}
    (out / "index.html").unlink()
    site.build(out, tmp_path / "results", tmp_path / "notebooks")
    assert {path.name: path.read_bytes() for path in out.glob("*.html")} == kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="mine: holds other files"):
        site.build(tmp_path / "mine", tmp_path / "results", tmp_path / "notebooks")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": [{"cell_type": "code", "source": []}]}'])
def test_what_is_no_notebook_is_named(tmp_path, text):
    checkout(tmp_path)
    (tmp_path / "notebooks" / "00_page.ipynb").write_text(text)
    with pytest.raises(UserError, match=r"00_page\.ipynb: is no notebook"):
        site.build(tmp_path / "site", tmp_path / "results", tmp_path / "notebooks")


def test_words_of_a_figure_come_from_its_cell_or_its_heading(tmp_path):
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    plain, named = shown(image_png=dot), shown(image_png=dot)
    named["outputs"][0]["metadata"] = {"image/png": {"alt": 'Gains, "K" = 20', "width": 300}}
    out = checkout(tmp_path, [markdown("# Page\n\n## Gains"), plain, named])
    images = BeautifulSoup((out / "00_page.html").read_text(), "lxml").find_all("img")
    assert [(image["alt"], image.get("width")) for image in images] == [
        ("Figure 1: Gains", None), ('Gains, "K" = 20', "300")]
    assert all((out / image["src"]).is_file() and image.parent["href"] == image["src"] for image in images)
