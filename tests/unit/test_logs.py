import logging
import warnings

import pytest

from cryorestore import logs
from cryorestore.errors import CryorestoreError
from cryorestore.logs import get_logger, logged_step, progress, progress_text


def test_messages_and_warnings_go_to_the_log_and_to_the_terminal(tmp_path, capsys):
    with logged_step(tmp_path / "new" / "a.log"):
        get_logger().info("7 particles")
        warnings.warn("careful", stacklevel=1)
    written = (tmp_path / "new" / "a.log").read_text()
    assert "INFO 7 particles" in written
    assert "careful" in written
    assert capsys.readouterr().err.startswith("7 particles\n")


def test_an_error_of_ours_is_one_message_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped, logged_step(tmp_path / "a.log"):
        raise CryorestoreError("a.star: row 3: wrong")
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: a.star: row 3: wrong\n"
    assert "Traceback" not in (tmp_path / "a.log").read_text()


def test_any_other_error_leaves_its_traceback_in_the_log(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped, logged_step(tmp_path / "a.log"):
        raise ZeroDivisionError("by zero")
    assert stopped.value.code == 1
    assert "ZeroDivisionError: by zero" in (tmp_path / "a.log").read_text()
    assert "ZeroDivisionError: by zero" in capsys.readouterr().err


def test_a_step_keeps_its_own_exit_code_and_handlers_are_taken_away():
    before = list(get_logger().handlers)
    with pytest.raises(SystemExit) as stopped, logged_step(None):
        raise SystemExit(75)
    assert stopped.value.code == 75
    assert get_logger().handlers == before


def test_progress_passes_items_on_and_speaks_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(logs, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, "cryorestore"):
        assert list(progress([1, 2, 3, 4], description="restore")) == [1, 2, 3, 4]
    assert "restore … 50 % 2/4, " in caplog.text


def test_progress_is_silent_where_work_is_short(caplog):
    with caplog.at_level(logging.INFO, "cryorestore"):
        assert list(progress(iter("ab"), total=2, description="restore")) == ["a", "b"]
    assert caplog.text == ""


def test_progress_tells_rate_and_time_left():
    assert progress_text(120, 300, 10.0) == "40 % 120/300, 12/s, 15 s left"
    assert progress_text(5, None, 2.0) == "5, 2.5/s"
