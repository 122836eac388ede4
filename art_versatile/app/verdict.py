"""Who wins, said plainly."""

from __future__ import annotations

from dataclasses import dataclass

from art_versatile.app.service import Answer, Attacked

__all__ = ["Verdict", "adaptive_verdict", "static_verdict"]


@dataclass(frozen=True)
class Verdict:
    """
    What has come out.

    :param winner: "attack", "defence" or "nobody".
    :param headline: A few words.
    :param text: One or two sentences.
    """

    winner: str
    headline: str
    text: str


def static_verdict(attacked: Attacked, purified: Answer | None = None) -> Verdict:
    """
    Who wins, where the attacker does not know of the purifier.

    :param attacked: What the attack has made.
    :param purified: What the classifier says of it once purified; None before that.
    """
    before, after, name = attacked.clean_answer, attacked.answer, attacked.name
    if not attacked.fooled:
        if purified is None:
            return Verdict("nobody", "The attack failed", f"After {name} the classifier still says {after}.")
        if purified.index == before.index:
            text = f"After {name} the classifier still says {after}, and once purified {purified}."
            return Verdict("nobody", "Nothing to undo", text)
        text = f"{name} had failed, yet once purified the classifier says {purified} instead of {before}."
        return Verdict("attack", "The purifier does harm", text)
    change = f"{name} turns {before} into {after}"
    if purified is None:
        return Verdict("attack", "The classifier is fooled", f"{change}. Purify it to see whether that is undone.")
    if purified.index == before.index:
        return Verdict("defence", "The purifier wins", f"{change}; once purified the answer is {purified} again.")
    return Verdict("attack", "The attack wins", f"{change}; once purified the answer is {purified}, not {before}.")


def adaptive_verdict(attacked: Attacked, before: Answer, after: Answer) -> Verdict:
    """
    Who wins, where the attacker goes through the purifier.

    :param attacked: What the attack has made.
    :param before: What the classifier says of the clean photograph behind the purifier.
    :param after: What it says of the attacked one behind the purifier.
    """
    bare = attacked.clean_answer
    if before.index != bare.index:
        text = f"Before any attack the purifier turns {bare} into {before}; the attack leaves {after}."
        return Verdict("nobody", "No contest", text)
    if after.index != before.index:
        text = f"Knowing the purifier, {attacked.name} turns the defended answer {before} into {after}."
        return Verdict("attack", "The attacker wins", text)
    text = (
        f"{attacked.name} through the purifier, {attacked.iterations} iterations, leaves {after}. "
        "One attack on one photograph is no proof: try more iterations or a larger eps."
    )
    return Verdict("defence", "The purifier holds", text)
