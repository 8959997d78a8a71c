import shutil
import signal
import time

import pytest

import boxes


def pytest_configure(config):
    boxes.become_subreaper()
    # A shell lets its background jobs ignore the first two, nohup the third, and what is ignored is inherited.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    if not boxes.BARE and not boxes.MEMBOX.exists():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"{boxes.MEMBOX} is not built"))


@pytest.fixture
def box():
    folder = boxes.scratch_folder()
    yield boxes.Boxes(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_folder():
    folder = boxes.scratch_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def bare_runs():
    """Results of bare runs by name: one bare run serves all limits."""
    return {}


was_interrupted = []


def pytest_keyboard_interrupt(excinfo):
    was_interrupted.append(excinfo)


@pytest.fixture(autouse=True)
def nothing_left_over():
    """After each test: no process, no stopped task, within two seconds."""
    yield
    boxes.reap()
    if boxes.wait_until(lambda: not boxes.descendants(), 2, 0.02):
        boxes.reap()
        return
    report = boxes.describe()
    boxes.kill_all()
    time.sleep(0.1)
    boxes.reap()
    if not was_interrupted:  # else what it leaves is no defect, and a failure here would be the end of the report
        pytest.fail(f"left over after the test:\n{report}", pytrace=False)
