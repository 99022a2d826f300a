"""Every term of the objective against values computed by hand or by an independent formula."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipvl.engine.deterministic import forbidden_nondeterminism
from bipvl.model.losses import (
    HARD_NEGATIVES,
    NOISE,
    TEMPERATURE,
    Objective,
    UncertaintyWeighting,
    class_embedding_loss,
    global_alignment_loss,
    hard_negative_nce,
    info_nce,
    local_alignment_loss,
    repeatable_cross_entropy,
    segmentation_loss,
    unit,
)
from bipvl.model.released import (
    objective_class,
    released_global_alignment_loss,
    released_local_alignment_loss,
)

ALL_TERMS = ("segmentation", "class_embedding", "alignment")
seeds = st.integers(0, 2**31 - 1)
quick = settings(max_examples=25, deadline=None)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def unit_vectors(seed: int, batch: int, classes: int, texts: int) -> tuple[torch.Tensor, torch.Tensor]:
    visual, text = normal(seed, batch, classes, 8), normal(seed + 1, batch, classes, texts, 8)
    return unit(visual, 0.0), unit(text, 0.0)


def test_the_settings_are_the_papers():
    assert (TEMPERATURE, NOISE, HARD_NEGATIVES) == (0.2, 0.01, 3)


# --- segmentation -----------------------------------------------------------------------------------------


def test_segmentation_loss_of_undecided_logits_by_hand():
    """All probabilities 1/2, half the voxels each class: Dice 1/2, cross-entropy ln 2."""
    target = torch.zeros(1, 1, 2, 2, 2)
    target[..., 0] = 1
    loss = segmentation_loss(torch.zeros(1, 2, 2, 2, 2), target, overlapping=False)
    assert loss.item() == pytest.approx(0.5 + math.log(2), abs=1e-5)


def test_overlapping_segmentation_loss_of_undecided_logits_by_hand():
    """Squared: intersection n/4, sums n/4 and n/2, so Dice 2/3; without squares it would be 1/2."""
    target = torch.zeros(1, 1, 2, 2, 2, dtype=torch.uint8)
    target[..., 0] = 1
    loss = segmentation_loss(torch.zeros(1, 1, 2, 2, 2), target, overlapping=True)
    assert loss.item() == pytest.approx(1 / 3 + math.log(2), abs=1e-5)


@quick
@given(seed=seeds, channels=st.integers(2, 5), reduction=st.sampled_from(["mean", "none"]))
def test_where_determinism_is_demanded_the_cross_entropy_is_the_same(seed, channels, reduction):
    logits = normal(seed, 2, channels, 3, 4).requires_grad_()
    classes = torch.from_numpy(np.random.default_rng(seed).integers(0, channels, (2, 3, 4)))
    weight = normal(seed, channels).abs() if reduction == "none" else None
    found = []
    for forbid in (False, True):
        with forbidden_nondeterminism(forbid):
            loss = repeatable_cross_entropy(logits, classes, weight=weight, reduction=reduction)
            found.append((loss, *torch.autograd.grad(loss.sum(), logits)))
    for usual, repeatable in zip(*found, strict=True):
        torch.testing.assert_close(usual, repeatable, rtol=1e-5, atol=1e-6)


@quick
@given(seed=seeds, batch=st.integers(1, 3), channels=st.integers(2, 5), side=st.integers(2, 5))
def test_segmentation_loss_equals_an_independent_formula(seed, batch, channels, side):
    logits = normal(seed, batch, channels, side, 3, 4)
    target = np.random.default_rng(seed).integers(0, channels, (batch, 1, side, 3, 4))
    p = softmax(logits.double().numpy(), 1)
    t = np.moveaxis(np.eye(channels)[target[:, 0]], -1, 1)
    space = (2, 3, 4)
    dice = 1 - (2 * (p * t).sum(space) + 1e-5) / (p.sum(space) + t.sum(space) + 1e-5)
    entropy = -(t * np.log(p)).sum(1)
    expected = dice.mean() + entropy.mean()
    loss = segmentation_loss(logits, torch.from_numpy(target).to(torch.uint8), overlapping=False)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


@quick
@given(seed=seeds, batch=st.integers(1, 3), channels=st.integers(1, 4), side=st.integers(2, 5))
def test_overlapping_segmentation_loss_equals_an_independent_formula(seed, batch, channels, side):
    logits = normal(seed, batch, channels, side, 3, 4)
    t = np.random.default_rng(seed).integers(0, 2, (batch, channels, side, 3, 4))  # channels may overlap
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    space = (2, 3, 4)
    dice = 1 - (2 * (p * t).sum(space) + 1e-5) / ((p**2).sum(space) + (t**2).sum(space) + 1e-5)
    entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    loss = segmentation_loss(logits, torch.from_numpy(t).to(torch.uint8), overlapping=True)
    assert loss.item() == pytest.approx(dice.mean() + entropy.mean(), abs=1e-4)


@quick
@given(seed=seeds, batch=st.integers(1, 3), channels=st.integers(2, 5))
def test_class_weights_weigh_each_samples_own_mean(seed, batch, channels):
    """A sample of a rare class counts as much as one of a common class; Dice knows no weights."""
    logits = normal(seed, batch, channels, 4, 3, 5)
    target = np.random.default_rng(seed).integers(0, channels, (batch, 1, 4, 3, 5))
    weights = 0.1 + np.random.default_rng(seed).random(channels)
    cost = -np.log(np.take_along_axis(softmax(logits.double().numpy(), 1), target, 1)).reshape(batch, -1)
    w = weights[target].reshape(batch, -1)
    expected = ((w * cost).sum(1) / w.sum(1)).mean() - cost.mean()
    plain, weighted = (
        segmentation_loss(logits, torch.from_numpy(target), overlapping=False, class_weights=given_weights)
        for given_weights in (None, torch.from_numpy(weights).float())
    )
    assert (weighted - plain).item() == pytest.approx(expected, abs=1e-4)


@quick
@given(seed=seeds, batch=st.integers(1, 3), channels=st.integers(1, 4))
def test_class_weights_weigh_a_channels_own_voxels_where_classes_overlap(seed, batch, channels):
    logits = normal(seed, batch, channels, 4, 3, 5)
    t = np.random.default_rng(seed).integers(0, 2, (batch, channels, 4, 3, 5))
    weights = 0.1 + np.random.default_rng(seed).random(channels)
    cost = t * np.log1p(np.exp(-logits.double().numpy()))  # −log p of what lies in the class
    expected = ((weights.reshape(-1, 1, 1, 1) - 1) * cost).mean()
    plain, weighted = (
        segmentation_loss(logits, torch.from_numpy(t), overlapping=True, class_weights=given_weights)
        for given_weights in (None, torch.from_numpy(weights).float())
    )
    assert (weighted - plain).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_perfect_segmentation_costs_nothing(overlapping):
    target = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, 1, 4, 4, 4)))
    one_hot = torch.cat([1 - target, target], 1)
    loss = segmentation_loss(
        60.0 * (one_hot - 0.5), one_hot if overlapping else target, overlapping=overlapping
    )
    assert loss.item() < 1e-4


# --- class embeddings -------------------------------------------------------------------------------------


def test_class_embedding_loss_follows_the_decoder_at_every_position():
    """Each of the 27 positions takes the class of its own ninth of the volume, in x, y, z order."""
    classes = torch.from_numpy(np.random.default_rng(1).integers(0, 4, (2, 3, 3, 3)))
    blocks = classes
    for axis in (1, 2, 3):
        blocks = blocks.repeat_interleave(4, axis)
    logits = torch.nn.functional.one_hot(blocks, 4).movedim(-1, 1).float()
    right = 50.0 * torch.nn.functional.one_hot(classes.flatten(1), 4).transpose(1, 2)
    assert class_embedding_loss(right, logits).item() < 1e-6
    turned = 50.0 * torch.nn.functional.one_hot(classes.transpose(1, 3).flatten(1), 4).transpose(1, 2)
    assert class_embedding_loss(turned, logits).item() > 1
    assert class_embedding_loss(torch.zeros(2, 4, 27), logits).item() == pytest.approx(math.log(4))


def test_class_embedding_loss_takes_the_class_of_each_cells_mean_logits():
    """From 8³ to 4³ voxels: each cell of the coarser grid is centred between 2³ of the finer."""
    logits, class_logits = normal(2, 2, 3, 8, 8, 8), normal(3, 2, 3, 64)
    means = logits.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2).flatten(5).mean(-1)
    target = means.argmax(1).flatten(1)
    cost = -class_logits.log_softmax(1).gather(1, target[:, None])
    assert class_embedding_loss(class_logits, logits).item() == pytest.approx(cost.mean().item(), rel=1e-5)


def test_class_embedding_loss_sends_no_gradient_into_the_decoder():
    logits, class_logits = normal(0, 1, 3, 6, 6, 6).requires_grad_(), normal(1, 1, 3, 27).requires_grad_()
    class_embedding_loss(class_logits, logits).backward()
    assert logits.grad is None
    assert class_logits.grad.abs().sum() > 0


# --- contrastive terms ------------------------------------------------------------------------------------


def test_info_nce_by_hand():
    """Rows: −log softmax of (2 | 0) and (1 | 1); columns: of (2 | 1) and (1 | 0)."""
    similarity = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    cost = [math.log(1 + math.exp(-d)) for d in (2, 0, 1, 1)]  # how far each match leads its one rival
    assert info_nce(similarity).item() == pytest.approx(sum(cost) / 4)


@pytest.mark.parametrize("loss", [info_nce, hard_negative_nce])
def test_one_class_has_no_other_class(loss):
    similarity = torch.tensor([[[0.3]]], requires_grad=True)
    value = loss(similarity)
    value.backward()
    assert value.item() == 0 and similarity.grad.item() == 0


@quick
@given(seed=seeds, classes=st.integers(1, HARD_NEGATIVES + 1))
def test_with_few_classes_every_wrong_class_is_a_hard_negative(seed, classes):
    similarity = normal(seed, 2, classes, classes) * 4
    assert torch.allclose(hard_negative_nce(similarity), info_nce(similarity), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 15])
def test_without_a_limit_every_wrong_class_is_a_negative(classes):
    similarity = torch.randn(2, classes, classes, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(hard_negative_nce(similarity, None), info_nce(similarity), atol=1e-5)


def test_the_hard_negatives_are_the_most_similar_wrong_classes():
    similarity = normal(0, 6, 6)
    similarity[0] = torch.tensor([-2.0, 5.0, 4.0, -6.0, 3.0, -7.0])  # a weak positive, three hard rivals

    def row(values, positive):
        return math.log(math.exp(positive) + sum(math.exp(v) for v in values)) - positive

    matrix, costs = similarity.double().numpy(), []
    for m in (matrix, matrix.T):
        for c in range(6):
            hardest = sorted((m[c, j] for j in range(6) if j != c), reverse=True)[:3]
            costs.append(row(hardest, m[c, c]))
    assert costs[0] == pytest.approx(row([5, 4, 3], -2))
    assert hard_negative_nce(similarity).item() == pytest.approx(np.mean(costs), abs=1e-5)


def test_gradient_pushes_hard_negatives_down_the_match_up_and_leaves_easy_ones():
    rivals = torch.tensor([5.0, 4.0, -6.0, 3.0, -7.0])
    similarity = torch.full((6, 6), -20.0)
    similarity[0, 1:] = rivals
    similarity[range(6), range(6)] = 0.0
    similarity[1:, 1:] = 20 * torch.eye(5)  # the other rows and columns are settled
    similarity.requires_grad_()
    hard_negative_nce(similarity).backward()
    grad = similarity.grad[0]
    assert grad[0] < -0.01
    assert (grad[[1, 2, 4]] > 1e-3).all()
    assert grad[[3, 5]].abs().max() < 1e-6


@pytest.mark.parametrize("classes", [2, 3, 15])
def test_hard_negative_loss_can_reach_zero(classes):
    assert hard_negative_nce(60 * torch.eye(classes)).item() == pytest.approx(0, abs=1e-6)


@quick
@given(
    seed=seeds,
    batch=st.integers(1, 2),
    classes=st.integers(1, 6),
    texts=st.integers(1, 6),
    tau=st.sampled_from((TEMPERATURE, 0.7)),
)
def test_global_alignment_equals_an_independent_formula(seed, batch, classes, texts, tau):
    visual, text = unit_vectors(seed, batch, classes, texts)
    terms = []
    for v, t in zip(visual.double().numpy(), text.double().numpy(), strict=True):
        summary = []
        for c in range(classes):
            weight = softmax(t[c] @ v[c] / tau, 0)  # over the class's own texts
            mix = weight @ t[c]
            summary.append(mix / np.linalg.norm(mix))
        s = np.array(summary) @ v.T / tau
        match = np.arange(classes)
        terms.append(-np.log(softmax(s, 1)[match, match]) - np.log(softmax(s, 0)[match, match]))
    assert global_alignment_loss(visual, text, temperature=tau).item() == pytest.approx(
        np.mean(terms) / 2, abs=1e-4
    )


@quick
@given(
    seed=seeds,
    batch=st.integers(1, 2),
    classes=st.integers(1, 6),
    texts=st.integers(1, 4),
    tau=st.sampled_from((TEMPERATURE, 0.7)),
    hard=st.sampled_from((1, HARD_NEGATIVES, None)),
)
def test_local_alignment_equals_an_independent_formula(seed, batch, classes, texts, tau, hard):
    visual, text = unit_vectors(seed, batch, classes, texts)
    costs = []
    for b in range(batch):
        for k in range(texts):
            s = (text[b, :, k] @ visual[b].T / tau).double().numpy()
            for m in (s, s.T):
                for c in range(classes):
                    hardest = np.sort(np.delete(m[c], c))[::-1][:hard]
                    costs.append(np.log(np.exp(m[c, c]) + np.exp(hardest).sum()) - m[c, c])
    loss = local_alignment_loss(visual, text, temperature=tau, hard=hard)
    assert loss.item() == pytest.approx(np.mean(costs), abs=1e-4)


@pytest.mark.parametrize("loss", [global_alignment_loss, local_alignment_loss])
def test_alignment_prefers_the_right_text_for_each_class(loss):
    visual = torch.eye(5, 8)[None]
    text = visual[:, :, None].expand(-1, -1, 6, -1)
    assert loss(visual, text) < 0.1 < 1 < loss(visual, text.roll(1, dims=1))


def test_noise_is_added_before_normalising_and_only_where_wanted():
    x = torch.zeros(4000, 8)
    x[:, 0] = 2.0
    noisy = unit(x[None], NOISE)[0]
    assert torch.allclose(noisy.norm(dim=-1), torch.ones(4000))
    assert noisy[:, 1:].std().item() == pytest.approx(NOISE / 2, rel=0.05)  # a longer vector, a smaller angle
    before = torch.get_rng_state()
    assert torch.equal(unit(x, 0.0), x / 2)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn where no noise is wanted


def test_all_samples_of_a_batch_get_the_same_noise():
    first, *others = unit(torch.ones(4, 3, 8), 0.5)
    assert all(torch.equal(first, other) for other in others)
    assert not torch.allclose(first[0], first[1])


# --- weighting and the whole ------------------------------------------------------------------------------


def test_uncertainty_weighting_starts_at_half_the_sum_and_follows_its_formula():
    weighting = UncertaintyWeighting(terms=("a", "b"))
    losses = {"a": torch.tensor(3.0), "b": torch.tensor(0.5), "not weighted": torch.tensor(9.0)}
    assert weighting(losses).item() == pytest.approx(1.75)
    with torch.no_grad():
        weighting.log_variance["a"].fill_(2.0)
    assert weighting(losses).item() == pytest.approx(3 / (2 * math.exp(2)) + 1 + 0.25)


def test_uncertainty_weighting_settles_at_the_log_of_each_loss():
    weighting = UncertaintyWeighting(terms=("a", "b"))
    losses = {"a": torch.tensor(4.0), "b": torch.tensor(0.25)}
    optimizer = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        weighting(losses).backward()
        optimizer.step()
    for term, loss in losses.items():
        assert weighting.log_variance[term].item() == pytest.approx(math.log(loss.item()), abs=1e-2)


def output_of(seed: int, batch: int = 2, classes: int = 4, channels: int = 5) -> SimpleNamespace:
    return SimpleNamespace(
        logits=normal(seed, batch, channels, 6, 6, 6),
        class_logits=normal(seed + 1, batch, channels, 27),
        visual=normal(seed + 2, batch, classes, 16),
        text=normal(seed + 3, batch, classes, 6, 16),
    )


def test_objective_is_the_weighted_sum_of_its_named_terms():
    objective, output = Objective(terms=ALL_TERMS, overlapping=False), output_of(0)
    target = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (2, 1, 6, 6, 6)))
    s = {"segmentation": -0.2, "class_embedding": 0.1, "alignment": 0.4}
    for term, log_variance in objective.log_variances.items():
        log_variance.data.fill_(s[term])
    torch.manual_seed(7)
    total, losses = objective(output, target)
    torch.manual_seed(7)
    visual, text = unit(output.visual, NOISE), unit(output.text, NOISE)
    expected = {
        "segmentation": segmentation_loss(output.logits, target, overlapping=False),
        "class_embedding": class_embedding_loss(output.class_logits, output.logits),
        "alignment": global_alignment_loss(visual, text) + local_alignment_loss(visual, text),
    }
    assert set(objective.log_variances) == set(expected)
    for term, value in expected.items():
        assert torch.allclose(losses[term], value)
    weighted = sum(v / (2 * math.exp(s[term])) + s[term] / 2 for term, v in expected.items())
    assert total.item() == pytest.approx(weighted.item(), abs=1e-5)


def test_objective_of_one_term_is_the_segmentation_loss_itself():
    objective, output = Objective(terms=("segmentation",), overlapping=True), output_of(0)
    target = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (2, 5, 6, 6, 6)))
    expected = segmentation_loss(output.logits, target, overlapping=True)
    for given_output in (output, output.logits):  # a network without language gives bare logits
        total, losses = objective(given_output, target)
        assert torch.equal(total, expected) and list(losses) == ["segmentation"]
    assert not objective.log_variances and not list(objective.parameters())


def test_objective_has_only_the_terms_it_was_given():
    target = torch.zeros(2, 1, 6, 6, 6)
    _, losses = Objective(terms=("segmentation", "alignment"), overlapping=False)(output_of(0), target)
    assert set(losses) == {"segmentation", "global_alignment", "local_alignment", "alignment"}
    assert torch.equal(losses["alignment"], losses["global_alignment"] + losses["local_alignment"])


def test_two_terms_are_weighted_already():
    objective = Objective(terms=("segmentation", "alignment"), overlapping=False)
    assert set(objective.log_variances) == {"segmentation", "alignment"}


@pytest.mark.parametrize("overlapping", [False, True])
def test_objective_weighs_classes_but_does_not_save_the_weights(overlapping):
    """They are the run's configuration, not its state."""
    output, weights = output_of(0), torch.tensor([0.2, 1.0, 3.0, 0.5, 2.0])
    random = np.random.default_rng(0)
    shape = (2, 5 if overlapping else 1, 6, 6, 6)
    target = torch.from_numpy(random.integers(0, 2 if overlapping else 5, shape))
    objective = Objective(terms=("segmentation",), overlapping=overlapping, class_weights=weights)
    expected = segmentation_loss(output.logits, target, overlapping=overlapping, class_weights=weights)
    assert torch.equal(objective(output, target)[0], expected)
    assert not objective.state_dict()


SETTINGS = {"noise": 0.3, "temperature": 0.6, "hard": 1}


def alignment_of(output: SimpleNamespace, preset: object = "paper", **settings: float) -> tuple[dict, tuple]:
    """The named terms under these settings, and the noisy vectors that they were drawn with."""
    terms = ("segmentation", "alignment")
    objective = objective_class(preset)(terms=terms, overlapping=False, **SETTINGS | settings)
    torch.manual_seed(3)
    _, losses = objective(output, torch.zeros(2, 1, 6, 6, 6))
    torch.manual_seed(3)
    return losses, tuple(unit(x, objective.noise) for x in (output.visual, output.text))


def test_objective_hands_its_settings_on():
    losses, noisy = alignment_of(output_of(0))
    assert torch.equal(losses["global_alignment"], global_alignment_loss(*noisy, temperature=0.6))
    assert torch.equal(losses["local_alignment"], local_alignment_loss(*noisy, temperature=0.6, hard=1))


def test_weights_over_classes_is_the_released_global_term_alone():
    output = output_of(0)
    losses, noisy = alignment_of(output, ["weights_over_classes"], noise=0)
    expected = released_global_alignment_loss(output.visual, output.text, temperature=0.6, noise=0)
    assert torch.equal(losses["global_alignment"], expected)
    assert not torch.isclose(expected, global_alignment_loss(*noisy, temperature=0.6))
    assert torch.equal(losses["local_alignment"], local_alignment_loss(*noisy, temperature=0.6, hard=1))


def test_easy_negatives_is_the_released_local_term_alone():
    losses, noisy = alignment_of(output_of(0), ["easy_negatives"])
    expected = released_local_alignment_loss(*noisy, temperature=0.6)
    assert torch.equal(losses["local_alignment"], expected)
    assert not torch.isclose(expected, local_alignment_loss(*noisy, temperature=0.6, hard=1))
    assert torch.equal(losses["global_alignment"], global_alignment_loss(*noisy, temperature=0.6))


@pytest.mark.parametrize("preset, penalty", [("paper", 0.5), ("released", 1.0), (["doubled_penalty"], 1.0)])
def test_the_penalty_is_the_presets(preset, penalty):
    objective = objective_class(preset)(terms=ALL_TERMS, overlapping=False)
    for log_variance in objective.log_variances.values():
        log_variance.data.fill_(2.0)
    nothing = dict.fromkeys(ALL_TERMS, torch.tensor(0.0))
    assert objective.weighting(nothing).item() == pytest.approx(3 * 2 * penalty)
