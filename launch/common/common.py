"""What the launch scripts share: their flags, one clear line for a user's mistake, and an exit status."""

import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before jax: XLA's C++ side reads it once

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ehr_scaling import artifacts, configs, hardware, settings, storage
from ehr_scaling.configs import base
from ehr_scaling.errors import NO_MEMORY, Preempted, Unavailable, UserError, first_line, of_system
from ehr_scaling.processes import companions, endings, leading, preemption

from ..console import own_names
from . import log

if TYPE_CHECKING:
    from ehr_scaling.outcomes.following import StepOfModel

CONFIGS = Path(configs.__file__).parent
OF_DATA = {
    "synthetic": "quickstart",
    "challenge-2012": "challenge_2012",
    "mimic-iv-demo": "mimic_iv_demo",
}
# What --help of a script shows beside its own flags
SHORT_CUTS = ("config", "data", "source", "raw", "workdir", "physionet_url", "download", "preset", "code_maps")
OTHERS = ("layout", "fraction", "print_config")
OWN = ("mimic-iv", "meds")  # sources whose records the user brings: configs/records.py
_FIELD = re.compile(r"--?config\.([\w.]+)")  # of a command line


# What running a config file, or setting a field of it that is misspelt or of another type, can raise
CONFIG_ERRORS = (AttributeError, LookupError, ValueError, TypeError, OSError, ImportError, SyntaxError)


def _config_error(error: BaseException) -> str:
    text = " ".join(str(error.args[0] if error.args else error).replace("\\n", " ").replace("\\", "").split())
    return f"--config: {text}: configs/base.py has all fields with their types"


def config_of_data(data: str) -> str:
    """The config file for `--data`: a name of OF_DATA, or a folder of MIMIC-IV (hosp/) or of MEDS (data/, metadata/).

    Raises: UserError when it is neither.
    """
    if data in OF_DATA:
        return str(CONFIGS / f"{OF_DATA[data]}.py")
    if data in OWN:
        return f"{CONFIGS / 'records.py'}:{data}"
    folder = Path(data)
    if (folder / "hosp").is_dir():
        return f"{CONFIGS / 'records.py'}:mimic-iv"
    if (folder / "data").is_dir() and (folder / "metadata").is_dir():
        return f"{CONFIGS / 'records.py'}:meds"
    reason = "holds neither hosp/ (MIMIC-IV) nor data/ and metadata/ (MEDS)" if folder.is_dir() else "is no folder"
    raise UserError(f"--data={data} {reason}: give one of {', '.join(OF_DATA)}, or the folder of a data set")


def define_config_flags() -> None:
    """`--config`, with `--config.<field>=` for every field; short cuts to the most used ones; `--workdir`."""
    given = [value for *_, value in _given(sys.argv, "data", "source")]
    try:
        default = config_of_data(given[-1] if given else "synthetic")
    except (UserError, OSError) as e:
        endings.fail(of_system(e) or e)
    flags.DEFINE_string("data", "synthetic", f"{', '.join(OF_DATA)}, or a folder with MIMIC-IV or a MEDS data set.")
    flags.DEFINE_enum("source", None, [*OF_DATA, *OWN], "The kind of records; with --raw, the same as --data=<folder>.")
    flags.DEFINE_string("workdir", None, "Folder for all results of the study [default: work/<data>].")
    flags.DEFINE_string("raw", None, "Folder with the raw records, instead of downloading them.")
    flags.DEFINE_string("physionet_url", None, "Base URL of a mirror of PhysioNet.")
    flags.DEFINE_bool("download", None, "Fetch a credentialed release: PHYSIONET_USERNAME and …_PASSWORD, or ~/.netrc.")
    flags.DEFINE_enum("preset", None, ["clean", "ethos_ares", "ethos_paper"], "Tokenization [default: clean].")
    flags.DEFINE_string("code_maps", None, "Folder with ICD-9→10 (GEM) and drug→ATC tables.")
    flags.DEFINE_string("layout", None, "mimic-iv: generated patients as MIMIC-IV's own files (--source=synthetic).")
    flags.DEFINE_float("fraction", None, "Of MIMIC-IV 3.1's row counts, with --layout.", lower_bound=0, upper_bound=1)
    flags.DEFINE_bool("print_config", False, "Print every setting, with a star what configs/base.py has otherwise.")
    about = "A file, or a name of configs/ [default: what fits --data]; a field of it: --config.grid.seeds='(3,4)'."
    try:
        settings.check_fields([match[1] for match in map(_FIELD.match, sys.argv[1:]) if match], "--config.{}")
    except UserError as e:
        endings.fail(e, 2)
    try:  # the default file is run, and fields laid over it, here already; another file when it is first read
        config_flags.DEFINE_config_file("config", default, about)
    except CONFIG_ERRORS as e:
        endings.fail(_config_error(e), 2)
    for name in (*SHORT_CUTS, *OTHERS):  # --help shows the flags of the script; these are its own as well
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def define_process_flags() -> None:
    """`--distributed`, or `--coordinator`, `--processes` and `--process`: several processes that work as one."""
    about = "One of several processes, of a TPU pod, Slurm or MPI, which JAX knows how to find."
    flags.DEFINE_bool("distributed", False, about)
    flags.DEFINE_string("coordinator", None, "host:port of process 0, for processes that are started by hand.")
    flags.DEFINE_integer("processes", None, "How many there are, with --coordinator.", lower_bound=1)
    flags.DEFINE_integer("process", None, "Number of this one, from 0, with --coordinator.", lower_bound=0)
    for name in ("distributed", "coordinator", "processes", "process"):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _process_flags() -> tuple[str | None, int | None, int | None]:
    values = flags.FLAGS
    return values.coordinator, values.processes, values.process


def several_processes() -> bool:
    """Whether the flags say that this process is one of several."""
    return flags.FLAGS.distributed or _process_flags() != (None, None, None)


def join_processes() -> None:
    """Connect to the other processes that the flags name; before anything asks JAX for a device."""
    if not several_processes():
        return
    process_flags = _process_flags()
    if any(value is None for value in process_flags) and not flags.FLAGS.distributed:
        raise UserError("--coordinator, --processes and --process go together: give all three, or --distributed")
    import jax

    try:
        jax.distributed.initialize(*process_flags, heartbeat_timeout_seconds=companions.HEARTBEAT)
    except (ValueError, RuntimeError) as e:
        kind = UserError if isinstance(e, ValueError) else Unavailable  # of what was given; of whom it did not reach
        raise kind(
            f"the processes cannot be joined ({first_line(e)}): with --distributed a TPU pod, Slurm or MPI starts "
            "them; else all give the same --coordinator, host:port of process 0 that each can reach, and --processes, "
            "and each its own --process, from 0"
        ) from None
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # JAX has put a handler of its own over it
    companions.watch()


def ask_together(
    ask: Callable[[], None], workdir: Path, more: "Callable[[], Mapping[str, StepOfModel]] | None" = None
) -> None:
    """`ask()`, which asks models of a work directory: by process 0 of those that the flags name, which alone reads what
    the user gave and writes, while the others do what takes the devices of all (`leading`). Alone it is just called.

    more: steps of the others that `following.steps` does not know.
    """
    if not several_processes():
        ask()
        return
    join_processes()
    # Not above: alone, a mistake is told before JAX is there
    from ehr_scaling.grid import executors
    from ehr_scaling.outcomes import following

    executors.use_compile_cache()  # all alike, whoever has programs from earlier
    leading.run(ask, lambda: following.steps(workdir, more() if more else None))


def use_all_cores(about: str = "") -> None:
    """One run on all cores of a CPU: each is a device of its own, as fast as XLA can be; accelerators do not mind.

    A core alone has no threads to wait for after each operation, and gradients meet once an update. Before anything
    asks JAX for a device. Starts the program anew, once, for what the C library reads before Python begins.

    about: a first line, which nobody waits for the import of JAX to see, and which is said once.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, sys.orig_argv)
    if about:
        print(about, flush=True)
    import jax

    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false {os.environ.get('XLA_FLAGS', '')}"
    if "xla_force_host_platform_device_count" not in os.environ["XLA_FLAGS"]:
        jax.config.update("jax_num_cpu_devices", len(hardware.cores()))


def read_flags(*, goes_on: bool = False) -> tuple[ConfigDict, list[dict[str, Any]], Path]:
    """The config with the short-cut flags applied, the points of its sweep, and the work directory. With --print_config
    the config is printed, and the command ends.

    goes_on: without --config go by the settings that the work directory was made with; fields that are given on the
      command line stay.
    """
    values = flags.FLAGS
    path = config_flags.get_config_filename(values["config"]).split(":")[0]
    if not Path(path).is_file():
        raise UserError(f"--config={path} is no file: give one, or one of {', '.join(configs.NAMES)}")
    try:
        config = values.config
    except CONFIG_ERRORS as e:
        raise UserError(_config_error(e)) from None
    _check_config(config, path)
    data = values.source or values.data
    folder = Path(data)
    if data not in OF_DATA and data not in OWN and values["config"].using_default_value:
        config.data.raw = str(folder)
    if values.raw is not None:
        if not Path(values.raw).is_dir():
            raise UserError(f"--raw={values.raw} is no folder: give the folder that holds the raw records")
        config.data.raw = values.raw
    if values.physionet_url is not None:
        config.data.url = values.physionet_url
    for name in ("download", "preset", "code_maps", "layout", "fraction"):
        if values[name].value is not None:
            config.data[name] = values[name].value
    spec = importlib.util.spec_from_file_location("study_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "sweep"):
        raise UserError(f"{path} has no sweep(config): it yields the points of the grid, see configs/base.py")
    workdir = storage.local(values.workdir or str(Path("work") / folder.name))
    if goes_on and values["config"].using_default_value:
        settings.take_kept(config, workdir, config_flags.get_override_values(values["config"]))
    if values.print_config:
        print(settings.listing(config), flush=True)
        sys.exit(0)
    try:
        points = list(module.sweep(config))
    except CONFIG_ERRORS as e:
        raise UserError(_config_error(e)) from None
    return config, points, workdir


def _check_config(config: ConfigDict, path: str) -> None:
    """Raises UserError where a config has not the fields of configs/base.py."""
    fields = settings.flat(config)
    settings.check_fields(list(fields), f"{{}}, which --config={path} sets,")
    if lacking := sorted(set(settings.flat(base.get_config())) - set(fields)):
        raise UserError(f"--config={path} lacks {', '.join(lacking[:4])}: begin with get_config() of configs/base.py")


def begin(config: ConfigDict, workdir: Path, *, makes: bool = False) -> None:
    """Keep a log of what follows, and say in which settings the config differs from configs/base.py and from those that
    the work directory was made with. makes: whether the command makes the folder."""
    if makes:
        artifacts.work_directory(workdir)
    log.keep(workdir)
    for line in settings.differences(config, workdir):
        print(line, flush=True)


def _end_at_once(message: str, status: int) -> NoReturn:
    """Print one line, and do not wait for what a device is in the middle of: all that is kept has been saved."""
    if leading.on():  # of several processes none has anything to save but process 0, which has
        companions.fail(endings.line(message), status)
    print(endings.line(message), file=sys.stderr, flush=True)
    # Without JAX there is no device; of several processes the others may still be saving
    if "jax" not in sys.modules or sys.modules["jax"].distributed.is_initialized():
        sys.exit(status)
    sys.stdout.flush()
    os._exit(status)


def _leave_pipe() -> NoReturn:
    """`| head` has seen enough; what is left goes nowhere, at exit too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def config_file(given: str) -> str:
    """The file that `--config=given` means: a path, or a name of configs/, with or without its ending; each may have
    the argument of its get_config behind a colon. What is neither stays as it is.
    """
    path, colon, argument = given.partition(":")
    ours = CONFIGS / f"{Path(path).name.removesuffix('.py')}.py"
    by_name = Path(path).parent in (Path(), Path("configs"))
    return f"{ours}{colon}{argument}" if by_name and not Path(path).is_file() and ours.is_file() else given


def _given(argv: list[str], *names: str) -> Iterator[tuple[int, str, str]]:
    """Of each `--name=value` and each `--name value` of a command line: the place of the argument that holds the value,
    what stands before it there, and the value."""
    named = [dashes + name for name in names for dashes in ("--", "-")]
    for k, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in named and equals:
            yield k, f"{name}=", value
        elif k and argv[k - 1] in named:
            yield k, "", argument


def _configs_found(argv: list[str]) -> list[str]:
    """A command line with the value of --config as `config_file` has it."""
    found = list(argv)
    for k, before, value in _given(argv, "config"):
        found[k] = before + config_file(value)
    return found


def parse(argv: list[str]) -> list[str]:
    """absl's flags from a command line: what is left of it. A mistake ends in one line and status 2, --help in 0."""
    program = sys.modules["__main__"]  # whose docstring is what --help begins with
    program.__doc__ = own_names(program.__doc__ or "") or None
    try:
        return flags.FLAGS(_configs_found(argv))
    except SystemExit:  # --help and its kin, which absl ends with 1
        sys.exit(0)
    except BrokenPipeError:
        _leave_pipe()
    except UserError as e:  # of a config's get_config
        endings.fail(e, 2)
    except flags.Error as e:
        if "Traceback" in (told := str(e)):  # ml_collections puts that of a config's get_config into its message
            endings.fail(_config_error(ValueError(told.strip().splitlines()[-1])), 2)
        endings.fail(f"{told}: see --help", 2)
    except CONFIG_ERRORS as e:
        endings.fail(_config_error(e), 2)


def own_flags(message: str, names: Mapping[str, str]) -> str:
    """A stage's message in the flags of the command that was called. Stages name fields of the config as flags; a
    command without --config has a few of them as flags of its own (names: {theirs: ours}), and the others were set when
    the study was planned."""
    if "config" in flags.FLAGS:
        return message.replace(NO_MEMORY, f"{NO_MEMORY}: --config.workers=1, --config.training.microbatch=1")
    for theirs, ours in names.items():
        message = re.sub(rf"{re.escape(theirs)}(?!\w)", ours, message)
    message = re.sub(r"""(--\w+=)"\('(.*?)',\)\"""", r"\1\2", message)  # a tuple of the config is a plain list here
    return re.sub(r"""--config\.((?:\w+\.)*\w+(?:=(?:"[^"]*"|[^\s,;:()]+))?)""", r"config.\1 of the study", message)


_IN_BUCKETS = ("workdir", "config.training.init_from")  # flags that may name one
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def _refuse_buckets() -> None:
    """Paths that look like a bucket's would be folders of that name here."""
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        for given in value if isinstance(value, list) else [value]:
            if isinstance(given, str) and _ADDRESS.match(given) and name not in _IN_BUCKETS and name[-3:] != "url":
                raise UserError(f"--{name}={given}: only --workdir can be in a bucket; copy it here, or mount it")


def run(main: Callable[..., None], names: Mapping[str, str] | None = None, parts: Collection[str] = ()) -> None:
    """Run `main()` under absl flags; a user's mistake ends in one line and a non-zero status.

    names: of `own_flags`.
    parts: of a command that does one of several things, the words that say which: `main(part)`.
    """

    def guarded(argv: list[str]) -> None:
        if parts and (len(argv) < 2 or argv[1] not in parts):
            endings.fail(f"say which part: {', '.join(parts)}", 2)
        if len(argv) > 1 + bool(parts):
            endings.fail(f"unexpected argument {argv[-1]!r}: settings are flags, see --help", 2)
        # Orbax and grain report every save and every file; a person wants the progress bar.
        logging.set_verbosity(logging.WARNING)
        try:
            with preemption.at_once():  # training puts it off until it has saved
                _refuse_buckets()
                main(*argv[1:])
            companions.leave()
        except Preempted:
            companions.leave()
            _end_at_once(preemption.SAVED, Preempted.status)
        except KeyboardInterrupt:
            interrupted = "interrupted: finished work is kept, run the same command again to go on"
            companions.fail(endings.line(interrupted), 130)
            _end_at_once(interrupted, 130)
        except BrokenPipeError:
            companions.fail("", 141)
            _leave_pipe()
        except SystemExit as e:
            companions.fail("", e.code if isinstance(e.code, int) else 1)
            raise
        except Exception as e:
            endings.tell(e, reword=lambda message: own_flags(message, names or {}))
            sys.exit(endings.BROKEN)

    app.run(guarded, flags_parser=parse)
