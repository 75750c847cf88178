"""The judge: what it is asked, and how its answers are counted."""

import torch
from torch import nn

from imagic_cli.sketchbook.judge import CLASSES, UNSEEN, Judge, Sight, agreement, labels, truth
from imagic_cli.sketchbook.lesson_judge import SHIFT, disturbed
from imagic_cli.sketchbook.scenes import Scene

BIRD = Scene("bird", "flying", "red", "grass")


def test_labels_are_the_scenes_fields():
    found = labels([BIRD, Scene("dog", "sitting", "grey", "snow", style="pencil")])
    assert CLASSES["pose"][found["pose"][0]] == "bird: flying"
    assert CLASSES["pose"][found["pose"][1]] == "dog: sitting"
    assert CLASSES["setting"][found["setting"][1]] == "snow"
    assert CLASSES["colour"][found["colour"][0]] == "red"
    # Grey fur does not show in a pencil sketch.
    assert found["colour"][1] == UNSEEN


def test_agreement_leaves_out_a_hidden_colour():
    sketch = Scene("bird", "flying", "red", "grass", style="pencil")
    seen = Sight("bird", "flying", "blue", "sand", "pencil")
    assert agreement(seen, truth(sketch)) == {"subject": True, "pose": True, "setting": False, "style": True}
    assert agreement(seen, truth(BIRD))["colour"] is False


def test_a_pose_is_chosen_among_those_of_the_subject_seen():
    class Fixed(Judge):
        def forward(self, pictures):
            scores = {name: torch.zeros(1, len(each)) for name, each in CLASSES.items()}
            scores["subject"][0, CLASSES["subject"].index("horse")] = 1.0
            scores["pose"][0, CLASSES["pose"].index("dog: jumping")] = 9.0
            scores["pose"][0, CLASSES["pose"].index("horse: head down")] = 2.0
            return scores

    (seen,) = Fixed((16, 16)).see(torch.zeros(1, 3, 128, 128))
    assert (seen.subject, seen.pose) == ("horse", "head down")


def test_disturbed_pictures_keep_their_shape_and_stay_close_to_a_shift_of_themselves():
    flat = torch.full((4, 3, 32, 32), 0.5)
    found = disturbed(flat, torch.Generator().manual_seed(1))
    assert found.shape == flat.shape
    assert float((found.mean(dim=(1, 2, 3)) - 0.5).abs().max()) < 0.05
    edge = torch.zeros(1, 3, 32, 32)
    edge[..., 16:] = 1.0
    moved = nn.functional.avg_pool2d(disturbed(edge, torch.Generator().manual_seed(2)), 3, 1)
    column = int((moved.mean(dim=(0, 1, 2)) > 0.5).float().argmax()) + 1
    assert abs(column - 16) <= SHIFT + 1
