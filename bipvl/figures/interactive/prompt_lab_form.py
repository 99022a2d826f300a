"""The prompt lab as a form in a notebook: choose a case, edit a text, see the effect."""

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets

from bipvl import figures
from bipvl.analysis.word_attention import head_noun
from bipvl.common.errors import BipvlError
from bipvl.data.layouts import Case
from bipvl.data.prompts import COLUMNS
from bipvl.figures import style
from bipvl.figures.interactive.prompt_lab import TRAINED, Lab, column, with_text

EDITED = "edited"


class LabForm(ipywidgets.VBox):
    """Fields for case, class, concept, its text and a word; below them the lab's two answers.

    Only one text is edited at a time: choosing another case, class or concept restores the trained texts.
    The form shows what is wrong with a text.
    """

    def __init__(self, *, lab: Lab, cases: Sequence[Case]) -> None:
        self.lab, self.cases = lab, {case.id: case for case in cases}
        self.case = ipywidgets.Dropdown(options=list(self.cases), description="Case")
        names = [(c.name, row) for row, c in enumerate(lab.spec.classes)]
        self.structure = ipywidgets.Dropdown(options=names, description="Class")
        concepts = COLUMNS[: len(lab.texts[0])]
        self.concept = ipywidgets.Dropdown(options=concepts, value=concepts[-1], description="Concept")
        self.word = ipywidgets.Dropdown(description="Word")
        wide = ipywidgets.Layout(width="620px")
        self.text = ipywidgets.Textarea(description="Text", rows=3, continuous_update=False, layout=wide)
        self.show = ipywidgets.Button(description="Show", button_style="primary")
        self.back = ipywidgets.Button(description="As trained")
        self.message = ipywidgets.HTML()
        self.picture = ipywidgets.Image(format="png", width=900)
        super().__init__(
            [
                ipywidgets.HBox([self.case, self.structure]),
                ipywidgets.HBox([self.concept, self.word]),
                ipywidgets.HBox([self.text, ipywidgets.VBox([self.show, self.back])]),
                self.message,
                self.picture,
            ]
        )
        for choice in (self.case, self.structure, self.concept):
            choice.observe(self._reset, "value")
        self.text.observe(self._offer_words, "value")
        self.show.on_click(self._answer)
        self.back.on_click(self._reset)
        self._reset()

    def texts(self) -> list[list[str]]:
        """The texts of all classes, with the text in the form."""
        return with_text(self.lab.texts, self.structure.value, self.concept.value, self.text.value)

    def _reset(self, _: Any = None) -> None:
        """Show the trained text of the chosen concept and its answer."""
        trained = self.lab.texts[self.structure.value]
        text = trained[column(self.lab.texts, self.concept.value)]
        self.text.value = text.removeprefix(f"{self.concept.value}: ")
        self._offer_words()
        noun = head_noun(trained[0])
        self.word.value = noun if noun in self.word.options else self.word.options[0]
        self._answer()

    def _offer_words(self, _: Any = None) -> None:
        """Offer the words of the trained prompt and those that the form's text adds."""
        try:
            prompts = self.lab.texts, self.texts()
            words = [word for texts in prompts for word in self.lab.words(texts, self.structure.value)]
        except BipvlError as error:
            self._show_error(error)
            return
        chosen, self.word.options = self.word.value, list(dict.fromkeys(words))
        if chosen in self.word.options:
            self.word.value = chosen

    def _answer(self, _: Any = None) -> None:
        try:
            window = self.lab.window(self.cases[self.case.value], self.structure.value)
            asked, texts = {TRAINED: self.lab.texts}, self.texts()
            if texts != self.lab.texts:
                asked[EDITED] = texts
            table = self.lab.table(window, asked, self.word.value, self.concept.value)
            self.picture.value = style.png(figures.draw("prompt_lab", table))
        except BipvlError as error:
            self._show_error(error)
        else:
            self.message.value, self.picture.layout.visibility = "", "visible"

    def _show_error(self, error: BipvlError) -> None:
        self.picture.layout.visibility = "hidden"  # it shows another text
        self.message.value = f'<span style="color:#b41e00">{escape(str(error))}</span>'
