"""Every term of the objective against values computed by hand or by an independent formula."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipvl.losses import (
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
    segmentation_loss,
    unit,
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
def test_one_class_has_nothing_to_be_told_apart_from(loss):
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
@given(seed=seeds, batch=st.integers(1, 2), classes=st.integers(1, 6), texts=st.integers(1, 6))
def test_global_alignment_equals_an_independent_formula(seed, batch, classes, texts):
    visual, text = unit_vectors(seed, batch, classes, texts)
    terms = []
    for v, t in zip(visual.double().numpy(), text.double().numpy(), strict=True):
        summary = []
        for c in range(classes):
            weight = softmax(t[c] @ v[c] / TEMPERATURE, 0)  # over the class's own texts
            mix = weight @ t[c]
            summary.append(mix / np.linalg.norm(mix))
        s = np.array(summary) @ v.T / TEMPERATURE
        match = np.arange(classes)
        terms.append(-np.log(softmax(s, 1)[match, match]) - np.log(softmax(s, 0)[match, match]))
    assert global_alignment_loss(visual, text).item() == pytest.approx(np.mean(terms) / 2, abs=1e-4)


@quick
@given(seed=seeds, batch=st.integers(1, 2), classes=st.integers(1, 6), texts=st.integers(1, 4))
def test_local_alignment_equals_an_independent_formula(seed, batch, classes, texts):
    visual, text = unit_vectors(seed, batch, classes, texts)
    costs = []
    for b in range(batch):
        for k in range(texts):
            s = (text[b, :, k] @ visual[b].T / TEMPERATURE).double().numpy()
            for m in (s, s.T):
                for c in range(classes):
                    hard = np.sort(np.delete(m[c], c))[::-1][:HARD_NEGATIVES]
                    costs.append(np.log(np.exp(m[c, c]) + np.exp(hard).sum()) - m[c, c])
    assert local_alignment_loss(visual, text).item() == pytest.approx(np.mean(costs), abs=1e-4)


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
    assert torch.equal(unit(x, 0.0), x / 2)


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
