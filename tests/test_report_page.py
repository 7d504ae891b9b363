"""The report: opens offline in a real browser without an error, shows the run's own figures, escapes what it shows."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nas.catalogue import spaces
from nas.cost import cost
from nas.errors import RunError
from nas.predict.card import Card
from nas.report import front_png, write_report
from nas.report.page import page
from nas.report.view import gather
from nas.runs import RunDir, load_run, write_json
from nas.runs import front as fronts
from nas.space import load_space

TARGET = "local/onnxruntime/fp32"
OTHER = "pixel6/tflite/fp32"
HOSTILE = "</script><script>alert(1)</script><b onmouseover='x'>\"&"


def believed_accuracy(macs: float) -> float:
    return 0.985 - 0.09 * (macs / 1e6) ** -0.45


def make_run(path: Path, targets=(TARGET,), name: str = "digits", rows: int = 10, finished: bool = True) -> Path:
    """A run as the search leaves it, over real architectures, with made-up but plausible accuracies and latencies."""
    rng, space = np.random.default_rng(5), load_space("digits")
    X = space.sample(240, rng, over="genes")
    archs = space.decode(X)
    keep = {arch.id: i for i, arch in enumerate(archs)}
    costs = [cost(arch) for arch in archs]
    macs = np.array([c.macs for c in costs], float)
    slow = {target: 2.5**i for i, target in enumerate(targets)}
    latency = 0.03 + macs / 9e6 * (1 + 0.05 * rng.standard_normal(len(X)))
    inherited = np.clip(believed_accuracy(macs * 8) + 0.008 * rng.standard_normal(len(X)), 0, 1)
    inputs = {
        "space": {"name": name, "digest": space.digest, "toml": spaces()["digits"].read_text()},
        "supernet": {"dir": "results/runs/supernet", "digest": "9f2c1e77ab04"},
        "budgets": [f"latency_ms<={0.42 * slow[t]:.3g}@{t}" for t in targets] + ["accuracy>=0.85", "params<=1M"],
        "objectives": ["accuracy", *(f"latency_ms@{t}" for t in targets)],
        "searcher": "nsga2",
        "seed": 0,
        "splits": {"train": "1d9a44e0c2b1", "search": "77ab019f2c1e", "test": "c2b11d9a44e0"},
    }
    facts = {
        "versions": {"paretovit": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.1", "python": "3.11.9"},
        "host": {"cpu": "Example CPU @ 2.80GHz", "cores": 2, "governor": "performance", "load": 0.31},
    }
    with RunDir(path, inputs, facts) as run:
        for i in list(keep.values()):
            run.record_evaluation(
                {
                    **{"arch": archs[i].id, "genotype": X[i], "accuracy": inherited[i], "loss": 0.3, "images": 360},
                    **{"split": "search", "precision": "fp32", "round": i // 40, "phase": "search", "seconds": 0.2},
                    "predicted": {
                        "accuracy": min(1.0, believed_accuracy(macs[i] * 8)),
                        "latency_ms": {t: latency[i] * slow[t] * 1.01 for t in targets},
                    },
                }
            )
        for r in range(6):
            run.record_round(
                {"round": r, "evaluated": 40 * (r + 1), "hypervolume": 0.9 - 0.3 * 0.5**r, "reference": [1.0, 2.0]}
            )
        if finished:
            front = _front(run, archs, X, costs, latency, inherited, slow, rows, rng)
            run.write_front(front)
            run.reach("verify")
    if finished:
        _card(path / "predictors" / "local_onnxruntime_fp32", "latency")
        _card(path / "predictors" / "accuracy", "accuracy")
    return path


def _front(run, archs, X, costs, latency, inherited, slow, rows, rng):
    order = np.argsort(latency)
    best, chosen = 0.0, []
    for i in order:
        if inherited[i] > best:
            best = inherited[i]
            chosen.append(i)
    chosen = chosen[-rows:]
    records = []
    for n, i in enumerate(chosen):
        believed = believed_accuracy(costs[i].macs * 8)
        row = {
            "id": archs[i].id,
            "accuracy": {
                "predicted": believed,
                "low": believed - 0.012,
                "high": believed + 0.012,
                "inherited": inherited[i],
            }
            | {"finetuned": None, "test": inherited[i] - 0.004, "precision": "fp32"},
            "macs": costs[i].macs,
            "params": costs[i].params,
            "memory_mib": float(costs[i].memory_mib),
            "latency_ms": {},
        }
        for target, factor in slow.items():
            mean = float(latency[i] * factor)
            figures = {"predicted": mean, "low": mean * 0.95, "high": mean * 1.05, "measured": mean * 1.01}
            figures["verified"] = mean * float(1 + 0.02 * rng.standard_normal())
            for phase, column in [("select", "measured"), ("verify", "verified")]:
                run.record_measurement(
                    {
                        **{"arch": archs[i].id, "genotype": X[i], "target": target, "phase": phase, "session": phase},
                        **{"latency_ms": figures[column], "latency_p95_ms": figures[column] * 1.1, "disturbed": False},
                    }
                )
            row["latency_ms"][target] = figures
        run.write_arch(archs[i]) if n % 2 else None
        records.append(row)
    for i in order[::8]:
        if i not in chosen:
            for target, factor in slow.items():
                mean = latency[i] * factor
                measured = mean * (1 + 0.03 * rng.standard_normal())
                run.record_measurement(
                    {
                        **{"arch": archs[i].id, "genotype": X[i], "target": target, "phase": "calibrate"},
                        **{"latency_ms": measured, "predicted_ms": mean, "low_ms": mean * 0.95, "high_ms": mean * 1.05},
                    }
                )
    return fronts.from_rows(records)


def _card(folder: Path, kind: str) -> None:
    figures = {"mape": 0.026, "within_10pct": 0.99, "kendall_tau": 0.962, "coverage": 0.91, "noise": 0.019}
    if kind == "accuracy":
        figures = {
            "mae": 0.0061,
            "kendall_tau": 0.88,
            "tau_within_level": 0.61,
            "coverage": 0.9,
            "sampling_error": 0.004,
        }
    worse = {name: value * (1.6 if name in ("mape", "mae") else 0.9) for name, value in figures.items()}
    card = Card(
        **{"kind": kind, "model": "least squares + residual", "level": 0.9, "n_train": 50, "n_test": 200},
        **{"tested": "held out at random", "figures": figures, "baselines": {"macs_x_scale": worse}},
    )
    write_json(folder / "predictor.json", {"card": card.to_dict()})


def page_of(run: Path) -> str:
    """The report without the chart library, which takes seconds to bundle."""
    return page(gather(load_run(run)), library="")


class Page(HTMLParser):
    """The elements and visible texts of a page, and the parser's own opinion of its nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.texts, self._inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._inside):
            self.texts.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "demo", targets=(TARGET, OTHER)))


def test_the_report_is_one_small_file_that_names_no_other(report):
    text = report.read_text(encoding="utf-8")
    assert len(text) < 2_000_000
    for tag, attributes in Page(text).tags:
        assert "src" not in attributes, tag
        assert re.match("#|data:", attributes.get("href", "#")), tag


def test_the_report_shows_the_runs_own_figures(report):
    run = load_run(report.parent)
    said = " ".join(Page(report.read_text(encoding="utf-8")).texts)
    for row in fronts.to_rows(run.front):
        assert row["id"] in said
        for target in (TARGET, OTHER):
            assert f"{row['latency_ms'][target]['verified']:#.3g}" in said
        assert f"{100 * row['accuracy']['inherited']:.2f}" in said
    rate = fronts.hold_rate(fronts.held(run.front, run.measurements, run.budgets))
    assert f"{rate.held} of {rate.rows} held" in said
    for text in ("nsga2", "1d9a44e0c2b1", "2.13.0", "Example CPU", "MACs × scale", "0.962", "Wilson"):
        assert text in said


def test_tables_are_tables_and_pictures_have_words(report):
    tags = Page(report.read_text(encoding="utf-8")).tags
    names = [tag for tag, _ in tags]
    tables = [attributes for tag, attributes in tags if tag == "table"]
    assert len(tables) == 3
    assert all(attributes["aria-label"] for attributes in tables)
    assert names.count("h1") == 1
    drawings = [attributes for tag, attributes in tags if tag == "svg"]
    assert len(drawings) == len(load_run(report.parent).front)
    assert all(attributes["role"] == "img" and "depth" in attributes["aria-label"] for attributes in drawings)
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', report.read_text(encoding="utf-8"))[1])
    assert all(spec["description"] for spec in specs.values())
    assert set(specs) == {"front-0", "front-1", "latency-0", "latency-1", "accuracy", "progress"}


def test_hostile_names_stay_names(tmp_path):
    content = page_of(make_run(tmp_path / HOSTILE.replace("/", "_"), name=HOSTILE))
    assert "alert(1)" in content
    assert "<script>alert" not in content
    tags = Page(content).tags
    assert not any("onmouseover" in attributes for _, attributes in tags)
    assert [tag for tag, _ in tags].count("script") == 3


def test_a_run_without_a_front_gets_a_report_that_says_so(tmp_path):
    run = make_run(tmp_path / "run", finished=False)
    assert "There is no front yet" in page_of(run)
    with pytest.raises(RunError, match="has no front on any target"):
        front_png(run, tmp_path / "front.png")
    with pytest.raises(RunError, match="holds no run"):
        write_report(tmp_path)


def test_a_damaged_card_and_a_lost_architecture_are_notes(tmp_path):
    path = make_run(tmp_path / "run")
    (path / "predictors" / "accuracy" / "predictor.json").write_text("{")
    first = load_run(path).front["id"][1]
    (path / "models" / first / "arch.json").write_text("{")
    said = " ".join(Page(page_of(path)).texts)
    assert "the card of predictor accuracy cannot be read" in said
    assert f"{first} is not drawn" in said


BARE = {
    "id": "000000000001",
    "accuracy": {"predicted": 0.9, "low": None, "high": None, "inherited": None, "finetuned": None, "test": None},
    "macs": 10,
    "params": 5,
    "latency_ms": {TARGET: {"predicted": 1.0}},
}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([BARE], "not verified"),
        ([BARE, BARE | {"id": "000000000002", "latency_ms": {TARGET: {"measured": 2.0}}}], "2 architectures"),
        ([BARE | {"latency_ms": {}}], "Pareto front of tiny"),
        ([BARE | {"latency_ms": {OTHER: {"low": 1.0, "high": 2.0}}}], OTHER),
    ],
)
def test_a_front_with_little_known_about_it_is_shown(tmp_path, rows, said):
    with RunDir(tmp_path, {"space": "tiny", "budgets": [f"latency_ms<=5@{TARGET}", "accuracy>=0.99"]}) as run:
        run.write_front(fronts.from_rows(rows))
    texts = re.sub(r"\s+", " ", " ".join(Page(page_of(tmp_path)).texts))
    assert said in texts
    assert f"{BARE['id']} is not drawn" in texts


def test_a_row_over_its_budget_is_called_so(tmp_path):
    path = make_run(tmp_path / "run")
    with RunDir.reopen(path) as run:
        slow = run.measurements()[-1] | {"arch": load_run(path).front["id"][0], "phase": "verify", "latency_ms": 9.0}
        run.record_measurement(slow)
    texts = Page(page_of(path)).texts
    assert texts.count("✗ over") == 1
    assert "9 of 10 held" in texts
    assert '"verified, over budget"' in page_of(path)


def test_the_picture_of_the_front_is_a_png(report, tmp_path):
    for target in (None, OTHER):
        content = front_png(report.parent, tmp_path / "front.png", target=target).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(content[16:20], "big") > 1500
    with pytest.raises(RunError, match="no front on phone"):
        front_png(report.parent, tmp_path / "front.png", target="phone")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("selenium", reason="the browser test needs selenium (extra: dev)")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium with chromedriver: install chromium and chromium-driver")
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def open_report(driver, path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(path.resolve().as_uri())
    done = "return [...document.querySelectorAll('.chart')].every(e => e.dataset.drawn === 'yes')"
    WebDriverWait(driver, 60).until(lambda d: d.execute_script(done))


def marks(driver, chart: str, kind: str) -> int:
    return driver.execute_script(f"return document.querySelectorAll('#{chart} svg g.mark-{kind} > path').length")


def click_a_point(driver, chart: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    topmost = driver.find_elements(By.CSS_SELECTOR, f"#{chart} svg g.mark-symbol.role-mark > path")[-1]
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", topmost)
    ActionChains(driver).move_to_element(topmost).click().perform()


def test_the_report_opens_in_a_browser_without_an_error(report, browser):
    open_report(browser, report)
    rows = len(load_run(report.parent).front)
    for chart in ("front-0", "front-1"):
        assert marks(browser, chart, "symbol") >= 3 * rows  # predicted, measured and verified
    for chart in ("latency-0", "latency-1", "accuracy"):
        assert marks(browser, chart, "symbol") >= rows
    assert marks(browser, "progress", "line") == 1
    log = browser.get_log("browser")
    assert [entry for entry in log if entry["level"] in ("SEVERE", "WARNING")] == []
    click_a_point(browser, "front-0")
    ids = {f"#arch-{arch_id}" for arch_id in load_run(report.parent).front["id"]}
    assert browser.execute_script("return location.hash") in ids
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_the_report_fits_a_phone_and_runs_no_hostile_script(tmp_path, browser):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    open_report(browser, write_report(make_run(tmp_path / "run", name=HOSTILE)))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert "alert(1)" in browser.title
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
