from rich.console import Console

from experiments.summary import leakage_tables


def test_the_table_fits_a_terminal_and_shows_what_is_missing_as_missing():
    def arm(mean):
        return {
            "facial_similarity": {"mean": mean, "low": mean and mean - 0.1, "high": mean and mean + 0.1},
            "rank1": {"mean": 0.5, "low": 0.2, "high": 0.8},
        }

    several = {"all_images": arm(0.75), "best_image": arm(0.83)}
    figures = {"inverting_gradients": {"attack": arm(0.71), "prior_only": arm(None), "own_photo": arm(0.94), **several}}
    console = Console(width=80)
    with console.capture() as captured:
        console.print(leakage_tables({"overall": figures, "rounds": {"1": figures}}))
    text = captured.get()
    assert "inverting_gradients" in text
    assert "0.71 [0.61, 0.81]  50%" in text
    assert "all its images together 0.75  50%, the best of them 0.83  50%" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
