"""The command line: what it prints where, how it ends, and how soon it answers without torch."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from called import Call

from groundling import __version__
from groundling.tiny.scenes import draw_shapes

PICTURES = Path(__file__).parent / "pictures"
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "scipy")


def broken_records(folder: Path) -> Path:
    """The photographs, one box outside its picture, one line that is no record, one picture cut short."""
    shutil.copytree(PICTURES, folder)
    file = folder / "records.jsonl"
    cut = folder / "images" / "cut.jpg"
    cut.write_bytes((folder / "images" / "rocket.jpg").read_bytes()[:9000])
    outside = {"image": "images/rocket.jpg", "question": "the moon", "targets": [{"box": [600, 10, 900, 50]}]}
    unreadable = {"image": "images/cut.jpg", "question": "the rocket", "targets": []}
    lines = [json.dumps(outside), '{"image": "images/rocket.jpg"', json.dumps(unreadable)]
    file.write_text(file.read_text(encoding="utf-8") + "\n".join(lines) + "\n", encoding="utf-8")
    return file


# ---- without a model -------------------------------------------------------------------------------------------


def run_process(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """The finished process and the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=os.environ, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_version_is_told(call: Call) -> None:
    assert (call("--version").out, call("--version").code) == (f"groundling {__version__}\n", 0)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["train", "--help"], ["train", "tiny", "train.lerning_rate=1"], ["preview", "tiny", "run.dri=x"]],
)
def test_help_and_wrong_settings_are_answered_at_once_without_torch(words: list[str]) -> None:
    code = f"import sys; sys.argv = ['groundling', *{words}]\nfrom groundling.cli import main\n"
    code += "try:\n    main()\nfinally:\n    print('loaded', [name for name in sys.modules], file=sys.stderr)"
    best = 9.0
    for _ in range(3):  # the least of three: another process may be at work beside this one
        done, seconds = run_process("-c", code)
        best = min(best, seconds)
    loaded = done.stderr.rpartition("loaded ")[2]
    assert not [name for name in HEAVY if f"'{name}'" in loaded]
    assert best < 0.5, f"{best:.2f} CPU seconds"


def test_no_garbage_is_looked_for_while_libraries_are_loaded() -> None:
    """In a process of its own, as what is loaded is left out of every later look."""
    program = """
import gc, sys
from groundling.cli.screen import quiet_libraries
looks = []
gc.callbacks.append(lambda phase, _: looks.append(phase))
with quiet_libraries():
    assert "transformers.modeling_utils" in sys.modules and gc.isenabled() and gc.get_freeze_count() > 100_000
    print(looks.count("start") < 100)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_an_unknown_setting_names_the_closest(call: Call) -> None:
    ended = call("train", "tiny", "train.lerning_rate=1", "tune.frieze=[vision]")
    assert ended.code == 2 and ended.out == ""
    assert ended.err.startswith("error: ")
    assert "train.learning_rate" in ended.err and "tune.freeze" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train"], "Missing argument"),
        (["train", "nosuch.yaml"], "no recipe nosuch.yaml"),
        (["preview", "nosuch.yaml"], "no recipe nosuch.yaml"),
        (["preview", "tiny"], "no record file demo/train.jsonl"),
        (["preview", "tiny", "-n", "0"], "greater than or equal to 1"),
        (["preview", "tiny", "--to", "demo/run/page"], "is in run.dir, demo/run"),
        (["check", "nosuch.jsonl"], "no record file nosuch.jsonl"),
        (["convert", "cocoo", "a", "b.jsonl"], "cocoo"),
        (["evaluate", "nosuch", str(PICTURES / "records.jsonl")], "no model 'nosuch'"),
        (["evaluate", "tiny", str(PICTURES / "records.jsonl"), "--batch-size", "0"], "greater than or equal to 1"),
        (["evaluate", "tiny", str(PICTURES / "records.jsonl"), "--max-tokens", "0"], "greater than or equal to 1"),
        (["predict", "tiny", "nosuch.jpg", "--ask", "the cat", "--max-tokens", "-5"], "greater than or equal to 1"),
        (["predict", "tiny", "nosuch.jpg", "--ask", "the cat"], "no such picture: nosuch.jpg"),
        (["predict", "tiny", "nosuch-folder/x.jpg"], "Missing option '--ask'"),
        (
            ["predict", "tiny", "x.jpg", "--ask", "the cat", "--nms", "3"],
            "'--nms': Input should be less than or equal to 1",
        ),
        (["check", "x.jsonl", "--to", __file__], f"'{__file__}' is a file"),
        (["compare", "a", "b", "--to", __file__], "is a file"),
        (["preview", "tiny", "--to", __file__], "is a file"),
        (["evaluate", "tiny", "x.jsonl", "--to", __file__], "is a file"),
        (["predict", "tiny", "x.jpg", "--ask", "the cat", "--draw", __file__], "is a file"),
        (["fetch", "a/b", "--from", "elsewhere"], "--from 'elsewhere'; expected hub or modelscope"),
    ],
)
def test_wrong_use_is_one_error_block_and_exit_2(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call(*words)
    assert ended.code == 2 and ended.out == ""
    assert ended.err.count("error: ") == 1 and said in ended.err and "Traceback" not in ended.err


def test_check_tells_errors_with_exit_1(call: Call, tmp_path: Path) -> None:
    ended = call("check", broken_records(tmp_path / "data"), "--to", tmp_path / "found", "--json")
    assert ended.code == 1
    codes = {finding["code"] for finding in json.loads(ended.out)}
    assert {"outside", "unreadable_record", "unreadable_picture"} <= codes
    assert len((tmp_path / "found" / "findings.jsonl").read_text().splitlines()) == len(json.loads(ended.out))


def test_check_of_good_records_ends_with_0_and_strict_minds_warnings(call: Call, tmp_path: Path) -> None:
    records = PICTURES / "records.jsonl"
    assert call("check", records, "--strict").code == 0
    shutil.copytree(PICTURES, tmp_path / "data")
    one = {"image": "images/rocket.jpg", "question": "the horizon", "targets": [{"box": [0, 400, 640.5, 410]}]}
    (tmp_path / "data" / "clipped.jsonl").write_text(json.dumps(one) + "\n")
    assert call("check", tmp_path / "data" / "clipped.jsonl").code == 0
    assert call("check", tmp_path / "data" / "clipped.jsonl", "--strict").code == 1


def test_check_at_a_models_budget_finds_what_is_too_small_to_see(call: Call, tmp_path: Path) -> None:
    shutil.copytree(PICTURES, tmp_path / "data")
    one = {"image": "images/rocket.jpg", "question": "the lamp", "targets": [{"box": [150, 370, 160, 380]}]}
    (tmp_path / "data" / "small.jsonl").write_text(json.dumps(one) + "\n")  # 2 pixels a side in 16 tokens
    assert "tiny" not in call("check", tmp_path / "data" / "small.jsonl").out
    assert "tiny" in call("check", tmp_path / "data" / "small.jsonl", "--model", "tiny").out


def test_check_writes_a_page_and_mends(call: Call, tmp_path: Path) -> None:
    records, fixed = broken_records(tmp_path / "data"), tmp_path / "data" / "fixed.jsonl"
    ended = call("check", records, "--to", tmp_path / "found", "--fix", fixed)
    assert ended.code == 1, "the errors of the source are told all the same"
    assert "errors: 3" in ended.out and f"{fixed}: 9 records, 0 of them changed; 3 left out" in ended.err
    assert (tmp_path / "found" / "check.html").is_file()
    assert len((tmp_path / "data" / "fixed.rejected.jsonl").read_text().splitlines()) == 3
    assert call("check", fixed, "--strict").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fix", "records.jsonl"], "is the record file itself"),
        (["--fix", "elsewhere/fixed.jsonl"], "do not lie below elsewhere"),
        (["records.jsonl", "--fix", "fixed.jsonl"], "--fix mends one record file, not 2"),
        (["--recipe", "tiny", "--model", "tiny"], "both --recipe and --model"),
        (["--recipe", "nosuch"], "no recipe nosuch"),
    ],
)
def test_check_used_wrongly_ends_with_2(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    shutil.copytree(PICTURES, tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    ended = call("check", "records.jsonl", *words)
    assert ended.code == 2 and ended.err.count("error: ") == 1 and said in ended.err
    assert not (tmp_path / "data" / "elsewhere").exists()


def test_check_at_a_recipe_tells_lengths(call: Call, tmp_path: Path) -> None:
    ended = call("check", PICTURES / "records.jsonl", "--recipe", "tiny")
    assert "9 samples: " in ended.out and "(the recipe takes " in ended.out


def test_check_needs_no_torch(tmp_path: Path) -> None:
    code = f"import sys; sys.argv = ['groundling', 'check', {str(PICTURES / 'records.jsonl')!r}]\n"
    code += "from groundling.cli import main\ntry:\n    main()\nfinally:\n"
    code += "    print('loaded', list(sys.modules), file=sys.stderr)"
    done, _ = run_process("-c", code)
    assert done.returncode == 0 and "errors: 0" in done.stdout
    assert not [name for name in ("torch", "transformers") if f"'{name}'" in done.stderr]


def test_convert_and_export_come_back(call: Call, tmp_path: Path) -> None:
    ended = call("export", PICTURES / "records.jsonl", "tutorial", tmp_path / "t" / "tutorial.jsonl")
    assert ended.code == 0 and "7 written, 2 rejected" in ended.err  # the tutorial's form holds one box
    ended = call("convert", "tutorial", tmp_path / "t" / "tutorial.jsonl", tmp_path / "back.jsonl")
    assert ended.code == 0 and ended.out.split() == [str(tmp_path / "back.jsonl")]
    assert "7 records, 0 rejected" in ended.err


def test_export_takes_each_option_where_it_fits(call: Call, tmp_path: Path) -> None:
    records = PICTURES / "records.jsonl"
    coco = tmp_path / "coco.json"
    for format, out, options in [
        ("coco", coco, ["--labels", "the cat, the rocket"]),
        ("coco-results", tmp_path / "results.json", ["--like", coco]),
        ("yolo", tmp_path / "yolo", []),
        ("voc", tmp_path / "voc", ["--one-based"]),
        ("label-studio", tmp_path / "tasks.json", ["--url-prefix", "http://localhost:8000/"]),
        ("swift", tmp_path / "swift.jsonl", ["--family", "qwen2_5_vl"]),
    ]:
        ended = call("export", records, format, out, *options)
        assert (ended.code, ended.out.strip()) == (0, str(out)) and " written, " in ended.err
    assert [each["name"] for each in json.loads(coco.read_text())["categories"]] == ["the cat", "the rocket"]
    for words, said in [
        (["coco", tmp_path / "x.json", "--one-based"], "coco takes no --one-based"),
        (["coco-results", tmp_path / "x.json"], "coco-results needs --like"),
        (["yolo", tmp_path / "yolo"], "is there already"),
        (["coco", tmp_path / "x.json", "--images", tmp_path], "leave --images out"),
        (["coco", records], "would be overwritten"),
        (["label-studio", coco], "coco.json is there already; delete it, or name another"),
    ]:
        ended = call("export", records, *words)
        assert ended.code == 2 and said in ended.err and ended.out == ""


def test_export_of_nothing_says_why(call: Call, tmp_path: Path) -> None:
    answer = {"image": "nosuch/7.png", "question": "the ghost", "boxes": [[1, 2, 3]]}
    (tmp_path / "p.jsonl").write_text(json.dumps(answer) + "\n")
    ended = call("export", tmp_path / "p.jsonl", "coco", tmp_path / "coco.json")
    assert ended.code == 2 and "is a record or a prediction; the first: " in ended.err
    assert "p.jsonl:1: the box is [1, 2, 3]; expected 4 finite numbers" in ended.err


def test_convert_says_what_it_recognised_and_proved(call: Call, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(PICTURES / "images" / "rocket.jpg", tmp_path / "in")  # 640x427
    boxes = [[228, 320, 961, 970], [0, 0, 1000, 300], [0, 900, 1000, 1000]]
    chats = [
        {"images": ["rocket.jpg"], "query": f"thing {number}", "response": json.dumps({"bbox_2d": box})}
        for number, box in enumerate(boxes)
    ]
    (tmp_path / "in" / "chat.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    ended = call("convert", "auto", tmp_path / "in" / "chat.jsonl", tmp_path / "out.jsonl")
    assert ended.code == 0 and ended.out.split() == [str(tmp_path / "out.jsonl")]
    assert "read as swift: entries with messages and objects, or with query and response" in ended.err
    assert "the numbers count thousandths" in ended.err and "3 records, 0 rejected" in ended.err

    (tmp_path / "in" / "few.jsonl").write_text(json.dumps(chats[0]) + "\n")
    ended = call("convert", "swift", tmp_path / "in" / "few.jsonl", tmp_path / "few.jsonl")
    assert ended.code == 2 and ended.err.count("error: ") == 1
    assert "thousandths: possible" in ended.err and "original: impossible, 1 of 1 boxes" in ended.err


@pytest.mark.parametrize(
    "words",
    [
        ["check", "empty.jsonl"],
        ["preview", "tiny", "data.train=empty.jsonl", "data.test=null", "evaluate.every=0"],
        ["evaluate", "tiny", "empty.jsonl"],
        ["diagnose", "empty.jsonl", "empty.jsonl"],
    ],
)
def test_a_file_without_records_is_named(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    ended = call(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.endswith("error: empty.jsonl holds no records; `groundling convert` makes some\n")


# ---- with the bundled model ------------------------------------------------------------------------------------


def test_evaluate_leaves_bad_records_out_and_says_so(call: Call, tmp_path: Path) -> None:
    records = broken_records(tmp_path / "data")
    general = {"question": "Who are you?", "answer": "A model."}
    records.write_text(records.read_text(encoding="utf-8") + json.dumps(general) + "\n", encoding="utf-8")
    ended = call("evaluate", "tiny", records, "--to", tmp_path / "report", "--max-new-tokens", 8, "--json")
    assert ended.code == 0
    assert "3 records cannot be used" in ended.err and "1 records are general instructions" in ended.err
    assert json.loads(ended.out)["n"] == 9
    assert json.loads(ended.out) == json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))

    ended = call("compare", tmp_path / "report", tmp_path / "report", "--to", tmp_path / "both", "--json")
    assert ended.code == 0
    assert json.loads(ended.out, parse_constant=pytest.fail)["acc@0.5"]["difference"] == 0
    assert "NaN" not in ended.out
    assert (tmp_path / "both" / "comparison.html").is_file()


def test_evaluate_reports_as_a_protocol_does(call: Call, tmp_path: Path) -> None:
    records = PICTURES / "records.jsonl"
    words = ["evaluate", "tiny", records, "--to", tmp_path / "report", "--max-new-tokens", 40, "--protocol"]
    ended = call(*words, "odinw")
    assert ended.code == 0
    value = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert value["protocol"]["headline"] == "map" and value["protocol"]["value"] == value["detection"]["map"]
    *_, last = ended.out.splitlines()
    assert last.startswith(f"odinw: map {value['detection']['map']:.3f} over 9 questions (ODinW-13 as in Qwen3-VL, ")
    assert any(line.startswith("map50 ") for line in ended.out.splitlines())

    ended = call(*words, "coco")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error: no protocol 'coco'; expected refcoco, odinw, screenspot, pointing\n"


def test_predict_answers_for_a_folder_in_original_pixels(call: Call, tmp_path: Path) -> None:
    folder = broken_records(tmp_path / "data").parent / "images"
    words = ["predict", "tiny", folder, "--ask", "the cup", "--ask", "the cat", "--draw", tmp_path / "drawn", "--json"]
    ended = call(*words)
    assert ended.code == 1, "one of five pictures is damaged; the others are answered"
    assert ended.err.count("error: ") == 1 and "1 of 5 pictures could not be read; the others were" in ended.err
    told = json.loads(ended.out)
    cut = [one for one in told if Path(one["image"]).name == "cut.jpg"]
    assert [(one["question"], one["boxes"]) for one in cut] == [("the cup", None), ("the cat", None)]
    assert all("cut.jpg" in one["error"] for one in cut) and ended.err.count("cut.jpg") == 1
    answers = [one for one in told if one not in cut]
    assert [(Path(one["image"]).name, one["question"]) for one in answers[:2]] == [
        ("astronaut.jpg", "the cup"),
        ("astronaut.jpg", "the cat"),
    ]
    assert len(answers) == 8 and len(list((tmp_path / "drawn").iterdir())) == 4
    sizes = {Path(one["image"]).name: [one["width"], one["height"]] for one in answers}
    assert sizes["rocket.jpg"] == [640, 427]
    wanted = {"image", "width", "height", "question", "boxes", "labels", "scores", "points", "text", "flaw", "seen"}
    wanted |= {"full"}
    assert all(set(one) == wanted for one in answers)


def test_predict_ends_alike_for_one_picture_and_for_many_in_words_and_in_json(call: Call, tmp_path: Path) -> None:
    images = broken_records(tmp_path / "data").parent / "images"
    cut, cup = images / "cut.jpg", images / "astronaut.jpg"
    for pictures in ([cut], [cut, cup]):
        words, told = (call("predict", "tiny", *pictures, "--ask", "the cup", *kind) for kind in ([], ["--json"]))
        assert (words.code, told.code) == (1, 1)
        assert words.err == told.err and words.err.startswith(f"error: 1 of {len(pictures)} pictures could not be read")
        assert words.out.startswith(f"{cut}: the cup: not answered, the picture could not be read\n")
        assert len(words.out.splitlines()) == len(json.loads(told.out)) == len(pictures)

    (tmp_path / "answers.json").write_text(told.out, encoding="utf-8")
    ended = call("export", tmp_path / "answers.json", "label-studio", tmp_path / "tasks.json")
    assert "1 written, 1 rejected" in ended.err and "answers.json:1: not answered: " in ended.err
    missing = call("predict", "tiny", cup, tmp_path / "nosuch.jpg", "--ask", "the cup", "--json")
    assert (missing.code, missing.out) == (2, "")


def test_what_was_predicted_goes_back_to_where_people_label(call: Call, tmp_path: Path) -> None:
    scene = draw_shapes(np.random.default_rng(3))
    scene.picture.save(tmp_path / "scene.png")
    question = f"the {scene.objects[0].name}"
    ended = call("predict", "tiny", tmp_path / "scene.png", "--ask", question, "--json")
    (tmp_path / "answers.json").write_text(ended.out, encoding="utf-8")
    (answer,) = json.loads(ended.out)

    ended = call("export", tmp_path / "answers.json", "label-studio", tmp_path / "tasks.json")
    assert ended.code == 0 and "1 written, 0 rejected" in ended.err
    (task,) = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    (region,) = task["predictions"][0]["result"]
    value, (box,) = region["value"], answer["boxes"]
    assert value["rectanglelabels"] == [answer["labels"][0] or question]
    assert value["x"] == pytest.approx(100 * box[0] / answer["width"])
    assert value["y"] + value["height"] == pytest.approx(100 * box[3] / answer["height"])


def test_an_evaluations_answers_become_results_that_coco_scores(
    call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = PICTURES / "records.jsonl"
    assert call("evaluate", "tiny", records, "--to", tmp_path / "report", "--max-new-tokens", 40).code == 0
    assert call("export", records, "coco", tmp_path / "truth.json").code == 0
    predictions = tmp_path / "report" / "predictions.jsonl"
    ended = call("export", predictions, "coco-results", tmp_path / "results.json", "--like", tmp_path / "truth.json")
    assert ended.code == 0 and "no scores" not in caplog.text
    answers = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    boxes = {(round(box[0]), round(box[1])) for answer in answers for box in answer["boxes"]}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results and {(round(row["bbox"][0]), round(row["bbox"][1])) for row in results} <= boxes
    assert {row["score"] for row in results} <= {score for answer in answers for score in answer["scores"]}
    predictions.write_text("".join(json.dumps(answer | {"scores": None}) + "\n" for answer in answers))
    call("export", predictions, "coco-results", tmp_path / "unscored.json", "--like", tmp_path / "truth.json")
    assert "no scores" in caplog.text


def test_predict_at_another_budget_is_explicit(call: Call) -> None:
    picture = PICTURES / "images" / "rocket.jpg"
    own = json.loads(call("predict", "tiny", picture, "--ask", "the rocket", "--json").out)[0]
    ended = call("predict", "tiny", picture, "--ask", "the rocket", "--max-tokens", 64, "--json")
    assert json.loads(ended.out)[0]["seen"] != own["seen"]
    assert json.loads(ended.out)[0]["width"] == own["width"] == 640


def test_preview_shows_the_first_samples_and_leaves_the_run_folder_alone(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    records = broken_records(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(f"model: {{name: tiny}}\ndata: {{train: {records}}}\n", encoding="utf-8")
    ended = call("preview", "mine.yaml", "train.batch_size=2", "-n", 3)
    assert ended.code == 0 and ended.err.split()[-1] == "previews/mine/preview.html"
    assert "\x1b" not in ended.out and "the first 3 of 9 samples" in ended.out
    assert ended.out.count("  learned   ") == 3 and "set aside   unreadable_picture, 1 record" in ended.out
    assert (tmp_path / "previews" / "mine" / "preview.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"data", "mine.yaml", "previews"}


def test_preview_of_nothing_usable_is_refused_as_a_training_is(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n", encoding="utf-8")
    words = [
        "tiny",
        f"data.train={tmp_path / 'bad.jsonl'}",
        "data.test=null",
        "evaluate.every=0",
        f"run.dir={tmp_path / 'run'}",
    ]
    previewed, trained = call("preview", *words, "--to", tmp_path / "page"), call("train", *words)
    assert previewed.code == trained.code == 2
    assert "error: no record of data.train can be used: 1 errors; the first: " in previewed.err
    assert previewed.err == trained.err and not (tmp_path / "page").exists()


def test_info_tells_versions_and_contracts(call: Call) -> None:
    assert "transformers" in json.loads(call("info", "--json").out)["packages"]
    assert json.loads(call("info", "tiny", "--json").out)["family"] == "qwen2_5_vl"
