"""Idle time-outs (IDL): every silent client is closed in its time, whatever it was doing, and no active one is.

All observations were begun together when the run began (see :mod:`conformance.watch`); the checks collect them.
"""

from __future__ import annotations

from collections.abc import Callable

from conformance.check import (
    NO_CHANNEL,
    TLS_CHANNELS,
    Channel,
    Inconclusive,
    Latitude,
    Mismatch,
    NotAssessable,
    NotOffered,
    check,
)
from conformance.contract import Stage as Clock
from conformance.visit import Endpoint
from conformance.watch import Seen
from reference_server.settings import Service

Observed = Callable[..., Seen]

CLEAR_START = (Channel.PLAIN, Channel.EXPLICIT)
FOLLOWS = ("idle_timeout",)
#: Where HTTP is spoken, and elsewhere.
WEB = (Service.WEBMAIL, Service.ADMIN)
OTHERS = tuple(service for service in Service if service not in WEB)
#: Services that send nothing to a client that has asked nothing.
SILENT_UNASKED = tuple(service for service in Service if service is not Service.IMAP)


def timer_is_reset(endpoint: Endpoint, clock: str) -> bool:
    """Whether the target declares that commands restart the clock that runs there."""
    timer = getattr(endpoint.declared.timers, clock)
    return timer is None or timer.reset_by != "nothing"


@check("IDL-01", scenario="idle", watches=("after_command", "after_login"))
def test_an_idle_connection_is_closed_in_time(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("after_command").require_closed()
    observed("after_login").require_closed()


@check("IDL-02", scenario="idle", watches=("after_command", "after_login", "late_probe"))
def test_it_is_not_closed_before_its_time(observed: Observed, endpoint: Endpoint) -> None:
    observed("after_command").require_not_early()
    observed("after_login").require_not_early()
    if timer_is_reset(endpoint, "before_login"):
        observed("late_probe").require()


@check("IDL-03", scenario="idle", watches=("active", "active_signed_in"))
def test_any_complete_command_restarts_the_clock(observed: Observed, endpoint: Endpoint) -> None:
    if not timer_is_reset(endpoint, "after_login"):
        raise NotOffered("the target declares that nothing restarts its clock")
    observed("active_signed_in").require()
    if timer_is_reset(endpoint, "before_login"):
        observed("active").require()


@check("IDL-04", scenario="idle", channels=CLEAR_START, watches=("silent",))
def test_the_clock_runs_from_the_beginning(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("silent").require_in_time()


@check("IDL-05", scenario="idle", channels=(Channel.IMPLICIT,), watches=("silent_handshake", "half_hello"))
def test_the_clock_runs_during_the_implicit_handshake(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("silent_handshake").require_closed()
    observed("half_hello").require_closed()


@check(
    "IDL-06",
    scenario="idle",
    channels=(Channel.EXPLICIT,),
    watches=("after_starttls", "half_hello_after_starttls"),
)
def test_the_clock_runs_while_no_handshake_comes(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("after_starttls").require_closed()
    observed("half_hello_after_starttls").require_closed()


@check("IDL-07", scenario="idle", watches=("half_line",))
def test_the_clock_runs_with_half_a_line_buffered(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("half_line").require_in_time()


@check("IDL-08", scenario="idle", services=(Service.SMTP,), watches=("in_text", "in_sasl"))
def test_the_clock_runs_in_the_middle_of_an_smtp_request(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("in_text").require_in_time()
    observed("in_sasl").require_in_time()


@check("IDL-08", scenario="idle", services=(Service.IMAP,), watches=("in_literal", "in_sasl"))
def test_the_clock_runs_in_the_middle_of_an_imap_request(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("in_literal").require_in_time()
    observed("in_sasl").require_in_time()


@check("IDL-11", scenario="idle", services=SILENT_UNASKED, watches=("kernel_probes",))
def test_segments_without_data_are_no_activity(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("kernel_probes").require_in_time()


@check("IDL-11", scenario="idle", services=(Service.IMAP,), watches=("kernel_probes", "in_idle_with_mail"))
def test_what_the_server_sends_is_no_activity(observed: Observed, endpoint: Endpoint) -> None:
    observed("kernel_probes").require_in_time()
    timer = endpoint.declared.timers.imap_idle
    if timer is None or timer.seconds is not None:
        observed("in_idle_with_mail").require_in_time()


@check("IDL-12", scenario="idle", channels=TLS_CHANNELS, watches=("key_updates",))
def test_records_without_data_are_no_activity(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("key_updates").require_closed()


@check("IDL-26", scenario="idle", watches=("slow_reader",))
def test_whoever_takes_an_answer_slowly_is_not_idle(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("slow_reader").require()


@check("IDL-27", scenario="other_days", watches=("other_days",))
def test_setting_the_wall_clock_changes_nothing(observed: Observed, endpoint: Endpoint) -> None:
    """Where the target has a wall clock that can be set; on all others this cannot be seen."""
    del endpoint
    observed("other_days").require_in_time()


@check("IDL-13", scenario="idle", services=(Service.IMAP,), watches=("after_command", "after_login"))
def test_imap_says_bye_before_an_autologout(observed: Observed, endpoint: Endpoint) -> None:
    for name in ("after_command", "after_login"):
        seen = observed(name)
        seen.require()
        if seen.after is None:
            raise Inconclusive(f"{seen.title}: the connection was not ended, so there was nothing to announce")
        if not endpoint.dialect.is_farewell(seen.said):
            raise Mismatch(f"{seen.title}: an untagged BYE before the end", f"{seen.ending} after {seen.said!r}")


def require_default(endpoint: Endpoint, least: float) -> None:
    """The time-out that nobody configured is at least so long, in seconds."""
    declared = endpoint.declared.defaults.idle_timeout
    if declared is None:
        raise NotAssessable("the target does not declare what its time-out is when nobody sets it")
    if declared < least:
        raise Mismatch(f"a default time-out of at least {least:g} s", f"it is declared as {declared:g} s")


@check("IDL-18", scenario="general", channels=NO_CHANNEL)
def test_the_default_of_pop3_is_ten_minutes_or_more(endpoint: Endpoint) -> None:
    require_default(endpoint, 600)


@check("IDL-19", scenario="general", channels=NO_CHANNEL)
def test_the_default_of_imap_is_thirty_minutes_or_more(endpoint: Endpoint) -> None:
    require_default(endpoint, 1800)


@check("IDL-22", scenario="idle", watches=("neighbour", "alone"))
def test_the_close_needs_no_traffic_and_is_not_put_off_by_it(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("alone").require_in_time()
    observed("neighbour").require_in_time()


@check("IDL-23", scenario="idle", channels=(Channel.EXPLICIT, Channel.IMPLICIT), watches=("after_command",))
def test_the_same_time_out_holds_under_tls(observed: Observed, endpoint: Endpoint) -> None:
    under_tls = observed("after_command")
    under_tls.require_in_time()
    in_clear = observed("after_command", Channel.PLAIN)
    in_clear.require()
    if in_clear.after is not None and under_tls.after is not None:
        apart = abs(in_clear.after - under_tls.after)
        if apart > under_tls.slack + max(in_clear.starved, under_tls.starved):
            raise Mismatch(
                f"the same time-out in clear and under TLS, within {under_tls.slack:.2f} s",
                f"{in_clear.after:.2f} s in clear, {under_tls.after:.2f} s under TLS",
            )


@check("IDL-24", scenario="idle", needs=FOLLOWS, watches=("after_command", "longer", "long"))
def test_the_configured_value_is_the_effective_one(observed: Observed, endpoint: Endpoint) -> None:
    """A short, a longer and a long time-out; the long one is watched until every shorter one would have fired."""
    del endpoint
    observed("after_command").require_in_time()
    observed("longer").require_in_time()
    observed("long").require()


@check("IDL-25", scenario="stuck_and_full", needs=("max_connections",), watches=("refill_stuck",))
def test_the_forced_close_needs_no_help(observed: Observed, endpoint: Endpoint) -> None:
    """The clients neither read nor close; their slots are free all the same."""
    del endpoint
    observed("refill_stuck").require()


@check("IDL-09", scenario="stuck_and_full", needs=("max_connections",), watches=("refill_stuck",))
def test_a_client_that_does_not_read_is_cut(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    observed("refill_stuck").require()


@check("IDL-10", scenario="brief", services=OTHERS, watches=("trickle",))
def test_a_trickle_is_bounded(observed: Observed, endpoint: Endpoint) -> None:
    """One octet every half time-out, of a line that never ends."""
    require_bounded(endpoint)
    require_end(observed("trickle"))


@check("IDL-10", scenario="brief", services=WEB, watches=("trickle", "trickling_content"))
def test_a_head_and_a_content_that_trickle_are_bounded(observed: Observed, endpoint: Endpoint) -> None:
    """Of the content, too, there is always more to come within half a time-out."""
    require_bounded(endpoint)
    require_end(observed("trickle"))
    try:
        require_end(observed("trickling_content"))
    except Mismatch as error:
        raise Latitude(f"the declared bound is one of heads only: {error}") from None


def require_bounded(endpoint: Endpoint) -> None:
    """It is declared that a request which is never finished comes to an end."""
    if endpoint.declared.timers.trickle is None and Clock.TRICKLE not in endpoint.site.ready.timers.get(
        endpoint.service, {}
    ):
        raise Latitude("no bound is declared for a request that is never finished")


def require_end(seen: Seen) -> None:
    """A request that is never finished has come to an end."""
    if seen.not_offered is not None:
        raise Latitude("a request that is never finished is declared to be unbounded")
    seen.require_closed()


@check("IDL-14", scenario="idle", watches=("after_command",))
def test_smtp_says_421_before_it_ends_an_idle_session(observed: Observed, endpoint: Endpoint) -> None:
    seen = observed("after_command")
    seen.require_closed()
    if not endpoint.dialect.is_farewell(seen.said):
        raise Latitude(f"ended without 421 ({seen.ending})")


@check("IDL-15", scenario="idle", watches=("after_command",))
def test_pop3_says_nothing_before_it_ends_an_idle_session(observed: Observed, endpoint: Endpoint) -> None:
    del endpoint
    seen = observed("after_command")
    seen.require_closed()
    if seen.said:
        raise Latitude(f"ended with {seen.said.decode('utf-8', 'backslashreplace').strip()!r}")


@check("IDL-20", scenario="general", channels=NO_CHANNEL)
def test_the_default_of_smtp_is_five_minutes_or_more(endpoint: Endpoint) -> None:
    require_default(endpoint, 300)


@check("IDL-21", scenario="idle", watches=("in_idle",))
def test_a_client_in_idle_is_not_ended_before_its_time(observed: Observed, endpoint: Endpoint) -> None:
    timer = endpoint.declared.timers.imap_idle
    if timer is not None and timer.seconds is None:
        raise Latitude("a client in IDLE is declared never to be timed out")
    observed("in_idle").require_not_early()
