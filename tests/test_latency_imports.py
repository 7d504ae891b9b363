"""Imports of published latencies. Lines written here are invented; real files are read where they are at hand."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import shutil
import ssl
import subprocess
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nas.cost import FEATURES, cost, features, operators
from nas.errors import InputError, RunError
from nas.latency import read_table
from nas.latency.imports import COLUMNS, FORMATS, block_keys, import_table, per_call, read_import
from nas.latency.imports.phones_vit import EXACT, NEAR, SWIN
from nas.latency.imports.rows import Where, parse_where
from nas.latency.imports.source import fetch
from nas.latency.imports.vits import plain_arch
from nas.space import load_space

# Invented figures throughout, in the columns of each format.
HWGPT = """\
arch_id,scale,embed_dim,heads,mlp_ratio,bias,head_dim,batch,seq_len,vocab,toy_ms,old_ms
0,s,64,2-4,3-2,0,16,8,32,100,10.5,21.0
1,s,64,4-4,2-2,1,16,8,32,100,11.5,
"""
HAT = """\
device,task,runtime,precision,batch,seq_len,latency_ms,encoder_embed_dim,encoder_layer_num,encoder_ffn_embed_dim_avg,\
decoder_embed_dim,decoder_layer_num,decoder_ffn_embed_dim_avg,encoder_self_attention_heads_avg,\
decoder_self_attention_heads_avg,decoder_ende_attention_heads_avg,decoder_arbitrary_ende_attn_avg
Toy Pi,toy,eager,fp32,1,6,77.5,512,2,1536.0,640,3,1024.0,6.0,4.0,4.0,1.6666666666666667
"""
TIMM = """\
device,runtime,precision,layout,batch,model,module,img_size,params_m,gmacs,patch_size,embed_dim,depth,num_heads,\
mlp_ratio,latency_ms,family
Toy GPU,torch-1.0,fp16,nchw,256.0,deit_tiny_patch16_224,deit,224,5.72,1.26,16,192,12,3,,10.5,vit-plain
Toy GPU,torch-1.0,fp16,nhwc,256.0,deit_tiny_distilled_patch16_224,deit,224,5.91,1.27,16,192,12,3,,10.7,vit-plain
Toy GPU,torch-1.0,fp16,nchw,256.0,vit_odd_patch16_224,vision_transformer,224,5.72,9.99,16,192,12,3,,10.5,vit-plain
Toy GPU,torch-1.0,fp16,nchw,256.0,levit_128s,levit,224,7.78,0.31,,,,,,4.4,vit-hier-or-hybrid
"""
PHONES = """\
device,device_key,runtime,precision,batch,core_config,threads,model,flops,latency_ms,latency_std_ms
Toy Phone,toy,tflite-2.15,fp32,1,1large,1.0,vit-base-patch16-384,1.1e11,3600.0,1.5
Toy Phone,toy,tflite-2.15,int8,1,1large,1.0,deit-tiny-distilled-patch16-224,2.5e9,70.5,0.5
Toy Phone,toy,tflite-2.15,fp32,1,1large,1.0,cvt-13,9.1e9,440.0,0.5
"""
AIHUB = """\
device,runtime,compute_unit,precision,batch,model_id,latency_ms,version,job_id
Toy Board,tflite,NPU,float,1,vit,12.5,v0.1,job1
Toy Twin,tflite,NPU,float,1,vit,12.5,v0.1,job1
Toy Board,tflite,NPU,float,1,resnet18,1.5,v0.1,job2
"""
NN_METER = json.dumps(
    {
        "firstconv_128_3_16_2_3": 0.5,
        "conv_64_16_16_1_1_hard_swish_3_nose": 0.4,
        "transds_7_144_160_2_6": 0.7,
        "transattn_3_160_hard_swish_2_ln": 0.3,
        "transffn_3_160_4_hard_swish_ln": 0.2,
        "mbpool_3_160_1984_6_hard_swish": 0.6,
    }
)
WRITTEN = {
    "hwgpt": HWGPT,
    "hat": HAT,
    "timm_infer": TIMM,
    "phones_vit": PHONES,
    "aihub": AIHUB,
    "nn_meter_vit": NN_METER,
}
REAL = {
    "hwgpt": "hwgpt.csv.gz",
    "hat": "hat.csv.gz",
    "timm_infer": "timm_infer_vit.csv.gz",
    "phones_vit": "phones_vit.csv.gz",
    "aihub": "aihub_transformers.csv.gz",
    "nn_meter_vit": "nn_meter_vit_lut/pixel6.json",
}
COLUMN = {name: i for i, name in enumerate(COLUMNS)}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str, text: str | None = None) -> Path:
        path = tmp_path / ("toy.json" if name == "nn_meter_vit" else f"{name}.csv")
        path.write_text(WRITTEN[name] if text is None else text)
        return path

    return write


@pytest.mark.parametrize("name", FORMATS)
def test_an_import_says_where_it_is_from_and_reads_back(name, written, tmp_path):
    file = written(name)
    made = import_table(name, file, tmp_path / "out")
    again = read_import(tmp_path / "out")
    facts = tomllib.loads((tmp_path / "out" / "import.toml").read_text())
    assert facts["kind"] == "imported"
    assert facts["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (facts["address"], facts["licence"]) == (str(file), FORMATS[name].licence)
    assert facts["rows"] == len(made.rows) == len(again.rows) > 0
    assert np.array_equal(made.features, again.features)
    assert again.features.shape == (len(again.rows), len(COLUMNS))
    assert (again.features >= 0).all()
    assert again.rows.equals(made.rows)
    assert again.archs == made.archs
    for text in (tmp_path / "out").iterdir():
        text.read_text()


def test_rows_kept_and_dropped_add_up(written, tmp_path):
    for name, kept, dropped in (
        ("hwgpt", 3, {"no latency": 1}),
        ("timm_infer", 2, {"not a plain ViT": 1, "sizes that do not add up to the MACs stated": 1}),
        ("phones_vit", 2, {"neither a plain ViT nor a Swin": 1}),
        ("aihub", 1, {"a job that another row has": 1, "no operator list for the model": 1}),
    ):
        facts = import_table(name, written(name), tmp_path / name).facts
        assert (facts["rows"], dict(facts["dropped"])) == (kept, dropped)


def test_an_import_never_passes_for_a_table_measured_here(written, tmp_path):
    import_table("hwgpt", written("hwgpt"), tmp_path / "out")
    with pytest.raises(RunError, match=r"target\.toml"):
        read_table(tmp_path / "out")


def test_targets_are_told_apart_and_chosen_from(written, tmp_path):
    made = import_table("phones_vit", written("phones_vit"), tmp_path / "out")
    assert made.targets == ("toy-phone/tflite@2.15/fp32/t1/1large/b1", "toy-phone/tflite@2.15/int8/t1/1large/b1")
    assert made.where(precision="INT8").latency_ms.tolist() == [70.5]
    assert made.where(target=made.targets[0]).latency_ms.tolist() == [3600.0]
    chosen = import_table("phones_vit", tmp_path / "phones_vit.csv", tmp_path / "one", where="precision=int8")
    assert len(chosen.rows) == 1
    assert chosen.facts["dropped"]["not asked for"] == 1


def test_the_same_import_again_changes_nothing_and_another_is_refused(written, tmp_path):
    file, out = written("hwgpt"), tmp_path / "out"
    import_table("hwgpt", file, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    import_table("hwgpt", file, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(RunError, match="asked"):
        import_table("hwgpt", file, out, where="device=toy")
    header = (out / "import.toml").read_text()
    (out / "import.toml").write_text(header.replace("importer = 1", "importer = 0"))
    with pytest.raises(RunError, match="importer is 0, not 1"):
        import_table("hwgpt", file, out)
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="no imported table"):
        import_table("hwgpt", file, tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("hwgpt", HWGPT.replace("10.5", "ten"), "line 2: toy_ms is 'ten'"),
        ("hwgpt", HWGPT.replace("10.5", "-1"), "line 2: toy_ms is '-1'"),
        ("hwgpt", HWGPT.replace("2-4", "2-x"), "line 2: heads is '2-x'"),
        ("hwgpt", HWGPT.replace("3-2,0", "3-2-2,0"), "line 2: mlp_ratio"),
        ("hwgpt", HWGPT[:-30], "cut short"),
        ("hwgpt", HWGPT.replace("heads", "hats"), "lacks the columns heads"),
        ("hwgpt", HWGPT.splitlines()[0], "gives no rows"),
        ("hwgpt", HAT, "lacks the columns"),
        ("nn_meter_vit", "{", "not JSON"),
        ("nn_meter_vit", "[1]", "not a JSON object"),
        ("nn_meter_vit", '{"firstconv_128_3_16_2_3": null}', "firstconv_128_3_16_2_3 is None"),
        ("nn_meter_vit", '{"lstm_5": 1.0}', "lstm_5"),
        ("phones_vit", PHONES.replace(",1.0,", ",many,"), "threads is 'many'"),
    ],
)
def test_a_bad_file_is_told_in_one_line_and_leaves_nothing(name, text, said, written, tmp_path):
    with pytest.raises(RunError, match=r"\A[^\n]*\Z") as caught:
        import_table(name, written(name, text), tmp_path / "deep" / "out")
    assert said in str(caught.value)
    assert not (tmp_path / "deep").exists()


def test_a_wrong_digest_and_unknown_words_leave_nothing(written, tmp_path):
    file, out = written("hwgpt"), tmp_path / "out"
    for wrong, error, said in (
        ({"sha256": "0" * 64}, RunError, "expected 0000"),
        ({"sha256": "short"}, InputError, "64 hexadecimal digits"),
        ({"where": "colour=red"}, InputError, "device"),
        ({"where": "device"}, InputError, "FIELD=VALUE"),
        ({"where": "device=moon"}, RunError, "gives no rows"),
    ):
        with pytest.raises(error, match=said):
            import_table("hwgpt", file, out, **wrong)
        assert not out.exists()
    with pytest.raises(InputError, match="nn_meter_vit"):
        import_table("csv", file, out)
    with pytest.raises(RunError, match="cannot be read"):
        import_table("hwgpt", tmp_path / "nowhere.csv", out)


def test_gzipped_files_are_read_and_torn_ones_refused(tmp_path):
    whole = gzip.compress(HWGPT.encode())
    (tmp_path / "a.csv.gz").write_bytes(whole)
    assert len(import_table("hwgpt", tmp_path / "a.csv.gz", tmp_path / "out").rows) == 3
    (tmp_path / "b.csv.gz").write_bytes(whole[:-20])
    with pytest.raises(RunError, match="damaged"):
        import_table("hwgpt", tmp_path / "b.csv.gz", tmp_path / "torn")
    assert not (tmp_path / "torn").exists()


def test_a_damaged_import_is_refused(written, tmp_path):
    out = tmp_path / "out"
    import_table("hwgpt", written("hwgpt"), out)
    rows = (out / "latencies.csv").read_text().splitlines(keepends=True)
    (out / "latencies.csv").write_text("".join(rows[:-1]))
    with pytest.raises(RunError, match="expected 3"):
        read_import(out)
    (out / "import.toml").write_text('kind = "measured"\n')
    with pytest.raises(RunError, match="not of an imported table"):
        read_import(out)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an https server on this machine that hands out a folder, with a certificate of its own."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with: install openssl")
    certificate, key, served = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "served"
    served.mkdir()
    (served / "hwgpt.csv").write_text(HWGPT)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(served))  # type: ignore[arg-type]

        def log_message(self, *given: object) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("localhost", 0), Quiet) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        yield f"https://localhost:{listening.server_address[1]}"
        listening.shutdown()


def test_a_url_is_read_by_its_digest(server, tmp_path):
    address, digest = f"{server}/hwgpt.csv", hashlib.sha256(HWGPT.encode()).hexdigest()
    made = import_table("hwgpt", address, tmp_path / "out", sha256=digest.upper())
    assert (made.facts["address"], made.facts["sha256"], len(made.rows)) == (address, digest, 3)
    with pytest.raises(RunError, match="SHA-256"):
        import_table("hwgpt", address, tmp_path / "wrong", sha256="0" * 64)
    with pytest.raises(RunError, match="cannot be read"):
        import_table("hwgpt", f"{server}/nowhere.csv", tmp_path / "wrong", sha256=digest)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("https://localhost/a.csv", "--sha256"),
        ("http://localhost/a.csv", "expected a path or an https address"),
        ("file:///etc/hosts", "expected a path or an https address"),
    ],
)
def test_addresses_that_are_refused_unread(address, said):
    with pytest.raises(InputError, match=said):
        fetch(address)


def test_the_command_says_what_was_kept(nas_here, written, tmp_path):
    file = written("timm_infer")
    done = nas_here("table", "import", "timm_infer", file, "--out", tmp_path / "out", "--json")
    told = json.loads(done.out)
    assert (done.code, told["rows"], told["networks"]) == (0, 2, 2)
    assert told["targets"] == [
        "toy-gpu/torch@1.0/fp16/tunknown/unknown/b256",
        "toy-gpu/torch@1.0/fp16-nhwc/tunknown/unknown/b256",
    ]
    refused = nas_here("table", "import", "timm_infer", file, "--out", tmp_path / "no", "--sha256", "1" * 64)
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (2, "", 1)
    assert not (tmp_path / "no").exists()


def test_where_is_read_as_written():
    assert parse_where("device=Google Pixel 4, precision=fp32") == {"device": "Google Pixel 4", "precision": "fp32"}
    assert parse_where(None) == {}
    assert Where("A/B (c)", "x", "y").key == "a-b-c/x@unknown/y/tunknown/unknown/b1"


def test_features_of_calls_count_launches_and_weights_once(rng):
    one = rng.uniform(1, 2, (3, len(COLUMNS)))
    many = per_call(one, np.array([1, 2, 8]))
    assert np.array_equal(many[0], one[0])
    once = ["networks", "blocks", "conv_blocks", "linear_params", "operators"]
    assert np.allclose(many[2] / one[2], [1 if name in once else 8 for name in COLUMNS])


def test_networks_of_ours_have_the_features_of_their_arch(written, tmp_path):
    made = import_table("timm_infer", written("timm_infer"), tmp_path / "out")
    exact, near = made.archs
    assert near is None  # a distillation token
    assert cost(exact).params == 5_717_416  # DeiT-Ti, as torch counts it
    one = np.append(features([exact])[0], len(operators(exact)))
    assert np.array_equal(made.features[0], per_call(one[None], np.array([256]))[0])
    assert COLUMNS[:-1] == FEATURES
    more = made.features[1] / np.maximum(made.features[0], 1)
    assert more[COLUMN["softmax_elements"]] == pytest.approx((198 / 197) ** 2)
    assert more[COLUMN["activation_elements"]] == pytest.approx(198 / 197)
    assert made.groups[0] == made.groups[1]


def test_gpt_work_is_what_a_formula_says(written, tmp_path):
    made = import_table("hwgpt", written("hwgpt"), tmp_path / "out").where(device="toy")
    row = dict(zip(COLUMNS, made.features[0], strict=True))
    n, d, inner, hidden, batch = 32, 64, 16 * (2 + 4), 64 * (3 + 2), 8
    assert row["linear_macs"] == batch * n * (4 * d * inner + 3 * d * hidden + d * 100)
    assert row["matmul_macs"] == batch * 2 * n * n * inner
    assert row["softmax_elements"] == batch * n * n * 6
    assert row["linear_params"] == 4 * d * inner + 3 * d * hidden + d * 100  # no biases in this one
    assert (row["networks"], row["blocks"]) == (1, 2)
    biased = dict(zip(COLUMNS, made.features[1], strict=True))
    residual, rotary, gate, biases = 2 * 64, 2 * 64, 128, 3 * 64 + 64 + 2 * 128 + 64
    assert biased["add_elements"] == batch * n * 2 * (residual + rotary + gate + biases)
    assert biased["operators"] - row["operators"] == 2 * 6  # q, kv, proj, fc1, gate, fc2 in each of two layers


def test_translation_streams_the_decoder_once_a_token(written, tmp_path):
    made = import_table("hat", written("hat"), tmp_path / "out")
    row = dict(zip(COLUMNS, made.features[0], strict=True))
    n, e, d, inner, vocabulary = 6, 512, 640, 512, 32_768
    encoder = 2 * (4 * e * inner + 2 * e * 1536)
    step = 3 * (4 * d * inner + 2 * d * 1024 + 2 * d * inner) + d * vocabulary
    keys = 2 * e * inner * n * 5  # five times the source over three layers
    assert row["linear_macs"] == n * encoder + n * step + keys
    assert row["blocks"] == 2 + n * 3 * 2
    assert row["softmax_elements"] == n * n * 12 + n * (12 * 3 + 4 * 5 * n)


def test_blocks_are_followed_by_the_tables_rounding():
    keys = block_keys(load_space("elasticvit").largest)
    assert keys[0] == "firstconv_256_3_24_2_3"
    small = load_space("elasticvit").smallest
    odd = type(small)(224, 3, 1000, small.stem, small.stages, small.head)
    maps = [int(key.split("_")[1]) for key in block_keys(odd)]
    assert (maps[0], maps[1], maps[-1]) == (224, 112, 3)  # 224, 112, 56, 28, 14, 7, 3
    with pytest.raises(InputError, match="ElasticViT"):
        block_keys(load_space("digits").smallest)


# The real files, where they are at hand.


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], object]:
    folder, made = tmp_path_factory.mktemp("real"), {}

    def get(name: str) -> object:
        if name not in made:
            made[name] = import_table(name, shared_data / "latency" / REAL[name], folder / name)
        return made[name]

    return get


@pytest.mark.parametrize(("name", "rows"), [("phones_vit", 1504), ("timm_infer", 2664), ("nn_meter_vit", 12_116)])
def test_real_files_are_read(name, rows, real):
    assert len(real(name).rows) == rows
    assert (real(name).features[:, COLUMN["linear_macs"]] >= 0).all()


def test_phones_state_the_operations_of_our_lists(shared_data):
    import csv

    with gzip.open(shared_data / "latency" / REAL["phones_vit"], "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["runtime"] == "pytorch-mobile-2.0.0"]
    stated = {row["model"]: float(row["flops"]) / 2 for row in rows}
    params = {row["model"]: float(row["size_bytes"]) / 4 for row in rows if row["precision"] == "fp32"}
    for name, vit in (EXACT | NEAR).items():
        assert vit.macs == pytest.approx(stated[name], rel=0.03), name
    for name, vit in EXACT.items():
        assert cost(plain_arch(vit)).params == pytest.approx(params[name], rel=0.002), name
    for name, swin in SWIN.items():
        assert cost(swin.arch).macs == pytest.approx(stated[name], rel=0.002), name


@pytest.mark.slow
def test_hwgpt_counts_the_same_macs(shared_data, tmp_path):
    import csv

    name = shared_data / "latency" / REAL["hwgpt"]
    made = import_table("hwgpt", name, tmp_path / "out", where="device=a100")
    with gzip.open(name, "rt") as file:
        stated = {f"{row['scale']}-{row['arch_id']}": float(row["macs_deepspeed"]) for row in csv.DictReader(file)}
    theirs = np.array([stated[one] for one in made.rows["id"]])
    assert np.array_equal(made.features[:, COLUMN["linear_macs"]], theirs)


def test_any_network_of_the_space_is_a_sum_of_real_blocks(real, rng):
    table, space = real("nn_meter_vit"), load_space("elasticvit")
    archs = space.decode(space.sample(50, rng))
    for arch in [*archs, space.smallest, space.largest]:
        by_hand = sum(table.rows.set_index("id").loc[list(block_keys(arch)), "latency_ms"])
        assert table.network_ms(arch) == pytest.approx(by_hand)
    assert table.network_ms(space.smallest) < table.network_ms(space.largest)
