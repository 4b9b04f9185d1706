"""What each rule of the protocol is for: where its absence shows, and the story in a line.

In the order of the protocol's numbers. A rule with a `+` is one that the protocol did not have
before these searches asked for it.
"""

from __future__ import annotations

from tests.model.catalogue import Hole

HOLES: tuple[Hole, ...] = (
    Hole(
        "1",
        "`delete` compares the nonce",
        "two vetters",
        ("delete_compares_nonce",),
        "A vetter that was stopped in the middle of deleting goes on, after another one has"
        " rebuilt the shard: keys of an open shard are deleted.",
        "B is open, and keys of it were deleted",
    ),
    Hole(
        "1",
        "the worker's reading compares the nonce",
        "failover",
        ("read_compares_nonce",),
        "B serves; a settler still reads from A, settles an entry that B has never seen, and B"
        " goes on without it.",
        "B is open, and lacks entries that are settled",
    ),
    Hole(
        "2",
        "scripts are loaded once, before the first lease of their nonce",
        "failover",
        ("scripts_loaded_once",),
        "B takes over with A's leases, a worker finds no scripts there and loads them again: B"
        " answers, and nobody has vetted it.",
        "B commits and replays, and nobody has vetted this boot of it",
    ),
    Hole(
        "5",
        "a lease counts from a TIME that was read before the proof of life",
        "failover",
        ("lease_counts_from_time",),
        "A worker writes its proof, is stopped, and lends A a whole lease later, when B is about"
        " to open: two primaries take on new spending.",
        "A takes on new spending, and so may another boot",
    ),
    Hole(
        "5",
        "a proof of life needs the row open, under the nonce",
        "flush",
        ("proof_needs_open",),
        "A is flushed and vetted; another worker knows the new nonce already and lends before"
        " anybody has compared anything.",
        "A commits and replays, and nobody has vetted this boot of it",
    ),
    Hole(
        "5",
        "the lease script compares the boot",
        "there and back",
        ("lease_compares_boot",),
        "A fails over to B and back with B's older copy; it kept its scripts, and is lent a new"
        " lease.",
        "A commits and replays, and nobody has vetted this boot of it",
    ),
    Hole(
        "5",
        "a lease counts only with the script's own nonce, and `raise` drops leases",
        "flush",
        ("lease_names_its_nonce", "raise_drops_leases"),
        "A restarts with a lease of its last life, which lets it serve as soon as scripts of the"
        " next one are loaded, before anything is compared.",
        "A commits and replays, and nobody has vetted this boot of it",
    ),
    Hole(
        "5",
        "a lease counts only with the script's own nonce",
        "flush",
        ("lease_names_its_nonce",),
        "`raise` drops the leases of the life that ends, and after it none of that life is lent:"
        " either rule closes the hole.",
    ),
    Hole(
        "5",
        "`raise` drops leases",
        "flush",
        ("raise_drops_leases",),
        "A lease that is left over does not carry the next script's nonce: either rule closes the"
        " hole.",
    ),
    Hole(
        "6",
        "the lease to finish ends, so long after the last proof",
        "Postgres away",
        ("finish_ends",),
        "An old primary and a worker that Postgres has forgotten acknowledge commits for ever.",
        "A commits on, long after its last proof of life",
    ),
    Hole(
        "6",
        "a replay needs the lease to finish",
        "there and back",
        ("replay_needs_lease",),
        "A fails over to B and back with B's older copy, and answers replays from it.",
        "A answers a replay, and nobody has vetted this boot of it",
    ),
    Hole(
        "8",
        "no lease while Redis's clock is off",
        "clock",
        ("lease_needs_a_sane_clock",),
        "The clock jumps a day ahead, a lease records it: set right, the shard is closed so long.",
        "Redis's clock is right, and the shard is closed until it is much later",
    ),
    Hole(
        "8",
        "scripts compare TIME with the recorded one",
        "clock",
        ("scripts_compare_recorded",),
        "The clock jumps back during a lease, which then lasts: a hold is committed in time long"
        " after its deadline.",
        "a hold was committed in time, after its deadline",
    ),
    Hole(
        "8",
        "scripts never record the time",
        "clock",
        ("scripts_record_nothing",),
        "The clock jumps a day ahead, a script records it: set right, the shard is closed so long.",
        "Redis's clock is right, and the shard is closed until it is much later",
    ),
    Hole(
        "8+",
        "a shard whose clock was ahead is rebuilt before it has a lease",
        "clock",
        ("ahead_is_rebuilt",),
        "The clock jumps ahead, Redis ends a charge's record, the clock is right: it is made anew.",
        "a charge was repeated with its key, and made twice",
    ),
    Hole(
        "9",
        "the mark moves by compare-and-set",
        "two settlers",
        ("settle_compares_mark",),
        "Two workers read the same entry and both settle it.",
        "the journal has a gap, a fork, or an entry twice",
    ),
    Hole(
        "9",
        "the mark moves only under the nonce",
        "failover",
        ("settle_compares_nonce",),
        "A settler has read from A and is stopped; B opens; the settler settles an entry that B"
        " has never seen.",
        "B is open, and lacks entries that are settled",
    ),
    Hole(
        "9",
        "no unique index on what clients choose",
        "poison",
        ("keys_may_come_again",),
        "A client uses a key again after its window, as he may, and the journal rejects it.",
        "an account is frozen that did nothing wrong",
    ),
    Hole(
        "9",
        "a lost connection to Postgres discards the batch",
        "stalled settlers",
        ("batch_ends_with_connection",),
        "Redis loses an entry that a stopped settler has read, gives its number to another one,"
        " and Postgres falls back to the row that the settler knows: it settles the lost one.",
        "the shard is open, and lacks an entry whose caller was told `settled`",
    ),
    Hole(
        "10",
        "where the stream does not reach back, the shard is stopped",
        "one fall",
        ("behind_stops",),
        "Postgres falls back behind a trimmed stream, and the shard is rebuilt from it.",
        "what a healthy Redis held is thrown away",
    ),
    Hole(
        "10+",
        "the vetter settles the stream again before it opens",
        "one fall",
        ("vetter_replays",),
        "Adopted as it is, the shard opens with `settled` above the mark; settlers doubt that and"
        " leave it alone, vetting adopts it again, and so on: nothing is ever settled.",
        "whatever follows, its entries are never all settled while it serves",
    ),
    Hole(
        "11",
        "a rejected entry is kept apart",
        "poison",
        ("rejected_is_kept_apart",),
        "One entry that nothing takes stops every entry behind it.",
        "whatever follows, an entry of the good account is never settled",
    ),
    Hole(
        "11",
        "a quarantined account is neither evicted nor loaded",
        "poison",
        ("quarantined_is_not_evicted",),
        "It is evicted and loaded from tables that lack what was kept apart.",
        "the quarantined account serves with an older balance",
    ),
    Hole(
        "12",
        "`settled` is told by chain, not by number",
        "loss",
        ("told_by_chain",),
        "Redis loses an entry whose caller waits, gives its number to another one, and that one"
        " settles.",
        "a caller was told `settled`, and the journal has another entry",
    ),
    Hole(
        "13",
        "the append-only file is rewritten before the shard opens",
        "file",
        ("rewrites_before_it_opens",),
        "A kill tears a script's writes; what is written after the restart stands behind the tear,"
        " and the second restart carries out half of the script.",
        "a script is half carried out",
    ),
    Hole(
        "14",
        "marks are read after the declaration",
        "failover",
        ("mark_read_after_declaring",),
        "A settle is on its way when the vetter reads the mark: B, which lacks its entry, seems"
        " complete.",
        "B is open, and lacks entries that are settled",
    ),
    Hole(
        "14",
        "a declaration is about the node that is vetted, alone",
        "nodes",
        ("declares_its_node_alone",),
        "A node restarts, all are declared, and it goes down again: the other one, which served,"
        " waits for it.",
        "a node that served is closed until another one is back",
    ),
    Hole(
        "15",
        "a shard is compared before it is adopted",
        "failover",
        ("adopt_compares",),
        "B lags behind what is settled, and opens without it.",
        "B is open, and lacks entries that are settled",
    ),
    Hole(
        "15",
        "what is valid is settled before anything is deleted",
        "fall and rebuild",
        ("rebuild_settles_prefix",),
        "An operator rebuilds a healthy shard, and what it had not settled is thrown away.",
        "what a healthy Redis held is thrown away",
    ),
    Hole(
        "15",
        "somebody remembers that a rebuild has begun: the row, or Redis",
        "operator",
        ("row_remembers_rebuild", "redis_remembers_rebuild"),
        "A vetter dies in the middle of deleting, and the next one adopts what is left.",
        "A is open, and keys of it were deleted",
    ),
    Hole(
        "15",
        "the row remembers it",
        "operator",
        ("row_remembers_rebuild",),
        "Redis remembers it in every copy that has lost keys, so the row need not.",
    ),
    Hole(
        "15+",
        "Redis remembers it: `delete` notes in `meta` that the rest is a remnant",
        "operator",
        ("redis_remembers_rebuild",),
        "The rebuild ends, Redis restarts onto a file from the middle of it, and the vetter opens"
        " the boot that is gone: the row has forgotten, and the next vetter adopts the remnant.",
        "A is open, and keys of it were deleted",
    ),
    Hole(
        "15+",
        "likewise, and two vetters disagree on who is primary",
        "two opinions",
        ("redis_remembers_rebuild",),
        "A is half deleted; B is rebuilt and opened, so the row says no more that A was; a vetter"
        " that takes A for the primary adopts it.",
        "A is open, and keys of it were deleted",
    ),
    Hole(
        "15+",
        "likewise, and Postgres falls back",
        "fall and rebuild",
        ("redis_remembers_rebuild",),
        "Postgres falls back behind the word `rebuilding`, the vetter dies while it deletes, and"
        " the next one adopts what is left.",
        "the shard is open, and keys of it were deleted",
    ),
    Hole(
        "15+",
        "the note carries the mark that the rebuild gave way to, and nothing starts below it",
        "fall and rebuild",
        ("remnant_knows_mark",),
        "A rebuild has settled what is valid; Postgres falls back to before that, still under the"
        " nonce; the shard starts there, and nobody is told.",
        "the shard is open, and lacks an entry whose caller was told `settled`",
    ),
    Hole(
        "16",
        "another boot opens no earlier than 2.5 s after the last proof",
        "failover",
        ("open_pauses",),
        "A has a lease when B opens: two primaries take on new spending.",
        "A takes on new spending, and so may another boot",
    ),
    Hole(
        "17",
        "a load is refused where the mark is below `last_evict_seq`",
        "balances",
        ("load_compares_evictions",),
        "A slow loader restores what the account was before it was loaded, used and dropped again.",
        "the account serves with an older balance",
    ),
    Hole(
        "17",
        "a load is refused where the account exists",
        "balances",
        ("load_needs_absence",),
        "A slow loader overwrites an account that was loaded and used meanwhile.",
        "the account serves with an older balance",
    ),
    Hole(
        "17+",
        "all parts of a load go under one nonce",
        "calls",
        ("load_keeps_its_nonce",),
        "A loader brings the records, a rebuild deletes them, and the loader, which has the next"
        " nonce by then, brings the account as complete: a retry runs twice.",
        "the call happened twice",
    ),
    Hole(
        "15, 17",
        "a rebuild raises `last_evict_seq` to the mark",
        "balances",
        ("rebuild_is_noted",),
        "A slow loader restores a snapshot from before the rebuild.",
        "the account serves with an older balance",
    ),
    Hole(
        "18",
        "an eviction raises `last_evict_seq`",
        "balances",
        ("evict_is_noted",),
        "A slow loader restores a snapshot from before the eviction.",
        "the account serves with an older balance",
    ),
    Hole(
        "18",
        "what is evicted is settled",
        "balances",
        ("evict_needs_settled",),
        "`last_evict_seq` refuses every load until it is settled: the account is away meanwhile,"
        " and its balance is right afterwards.",
    ),
    Hole(
        "19",
        "an account that was loaded without its records says so",
        "calls",
        ("complete_is_told",),
        "After a rebuild the record of a call is gone, and its retry runs again.",
        "the call happened twice",
    ),
    Hole(
        "19",
        "“absent at mark m” counts only from the load's mark on",
        "calls",
        ("absence_compares_mark",),
        "Somebody looked for the record before the call was settled, and calls after a rebuild.",
        "the call happened twice",
    ),
    Hole(
        "19",
        "a closed record is loaded only if it has seen the last refund",
        "refunds",
        ("record_compares_refunds",),
        "Two read the record of a charge; it is brought, refunded, and expires; the other one"
        " brings it again, as if nothing were refunded.",
        "a refund happened twice",
    ),
    Hole(
        "20",
        "a grant is refused where the runner's mark is below `last_grant_seq`",
        "grants",
        ("grant_compares_mark",),
        "Two runners find no grant; the first one's record expires before the second applies it.",
        "the grant happened twice",
    ),
)
