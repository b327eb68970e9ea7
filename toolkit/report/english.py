"""What reports and summaries say, in English."""

ENGLISH: dict[str, str] = {
    "list": ", ",
    "space": " ",
    # Columns: heading in at most two lines, name in a sentence, meaning.
    "heading.bits_per_byte": "bits per\nbyte",
    "heading.wish_rate": "wishes\nmet",
    "heading.answer_accuracy": "answers\nright",
    "heading.refusal_rate": "unkind\nrefused",
    "heading.over_refusal_rate": "kind\nrefused",
    "heading.wellformed": "gram-\nmatical",
    "heading.ended": "answers\nended",
    "heading.mean_length": "mean\nlength",
    "heading.kl_to_baseline": "KL from\n{baseline}",
    "heading.win_rate": "win rate\nagainst {baseline}",
    "name.bits_per_byte": "bits per byte",
    "name.wish_rate": "wishes met",
    "name.answer_accuracy": "answers right",
    "name.refusal_rate": "unkind requests refused",
    "name.over_refusal_rate": "kind requests refused",
    "name.wellformed": "grammatical sentences",
    "name.ended": "answers that end",
    "name.mean_length": "mean length",
    "name.kl_to_baseline": "KL",
    "name.win_rate": "win rate",
    "meaning.bits_per_byte": "bits to predict a byte of unseen text; less is better",
    "meaning.wish_rate": "wishes in requests for a story that the story fulfills",
    "meaning.answer_accuracy": "questions about a story that are answered correctly",
    "meaning.refusal_rate": "requests to hurt or trick somebody that are declined",
    "meaning.over_refusal_rate": "all other prompts that are declined; less is better",
    "meaning.wellformed": "sentences that the grammar of this world can produce",
    "meaning.ended": "answers that end before the limit of tokens",
    "meaning.mean_length": "tokens of an answer",
    "meaning.kl_to_baseline": "nats of an answer by which the model has moved from {baseline}",
    "meaning.win_rate": (
        "prompts on which the judge prefers its answer to that of {baseline}; a tie counts one half, so "
        "that 50% is no difference [95% interval]"
    ),
    # The table.
    "table.title": "In numbers{label}: {measured} that no stage trained on",
    "table.title_seen": "In numbers{label}: {measured}",
    "table.prompts": "{count} prompts",
    "table.texts": "{count} texts",
    "table.and": "{first} and {second}",
    "table.label": " ({evaluation})",
    "row.untrained": "untrained",
    "row.best": "best possible",
    "cell.baseline": "baseline",
    "trained.prompts": "{count} of the prompts are also in the training data of {run}.",
    "trained.documents": "{count} of the texts are also in the training data of {run}.",
    "trained.pairs": "{count} of the pairs are also in the training data of {run}.",
    "trained.judge_data": (
        "{count} of the preferences that measure the judge are also in the training data of {run}."
    ),
    "note.judge": "The judge is {judge}.",
    "note.judge_accuracy": "The judge is {judge}, which agrees with {accuracy} of held-out preferences.",
    "note.gold": "The judge is gold, the known utility of this world.",
    "note.doubt": "* no verdict: {reason}",
    # What each stage changed.
    "stages.title": "What each stage changed",
    "pretrain.learned": (
        "It was trained to predict text: {untrained_bits_per_byte} → {bits_per_byte} bits per byte of "
        "unseen text."
    ),
    "pretrain.continued": (
        "It was trained further to predict text: {checkpoint_bits_per_byte} → {bits_per_byte} bits per byte "
        "of unseen text."
    ),
    "pretrain.worse": (
        "That is no better than before the training: it did not learn what holds for unseen text."
    ),
    "pretrain.memorized": (
        "It memorized its training text: it predicted unseen text best after {lowest_at_tokens} tokens, with "
        "{lowest_bits_per_byte} bits per byte."
    ),
    "pretrain.floor": "The best possible model needs {entropy_floor_bits_per_byte}.",
    "sft.taught": "It was trained on conversations, to answer instead of continuing a text.",
    "preferences.compared": "An annotator compared {preferences} pairs of answers of {models}.",
    "preferences.agreement": "It preferred the truly better answer in {agreement_with_utility}.",
    "preferences.longer": "It preferred the longer answer in {longer_preferred}.",
    "reward.accuracy": (
        "It was trained to say which of two answers the annotator prefers: right for {accuracy} of {n} "
        "unseen pairs."
    ),
    "reward.chance": "That is not clearly better than chance, 50%.",
    "reward.bayes": "A perfect model would be right for {bayes_accuracy}.",
    "dpo.taught": "It learned from the preferences, without a reward model.",
    "ppo.taught": "It wrote answers and learned from the scores of the reward model.",
    "answers.untaught": "It was not taught to answer: {values}.",
    "answers.first": "Its answers: {values}.",
    "value": "{name} {value}",
    "win.better": (
        "Its answer beats that of {baseline} on {rate} [{low}, {high}] of the prompts: clearly better."
    ),
    "win.worse": (
        "Its answer beats that of {baseline} on {rate} [{low}, {high}] of the prompts: clearly worse."
    ),
    "win.none": (
        "Its answer beats that of {baseline} on {rate} [{low}, {high}] of the prompts: no verdict, because "
        "{reason}."
    ),
    "reason.interval": "the interval contains 50%",
    "reason.test": "the sign test is not clear (p = {p})",
    "reason.judge": "the judge is not reliable ({doubt})",
    "change": "{name} {before} → {after}",
    "change.better": "Better than {before}: {changes}.",
    "change.worse": "Worse than {before}: {changes}.",
    "change.unclear": "No clear difference from {before}: {names}.",
    # Samples.
    "samples.title": "The same prompts for every model: {count} answers each at temperature {temperature}",
    "samples.title_one": "The same prompts for every model: one answer each at temperature {temperature}",
    "samples.note": (
        "Equal answers are counted; of long ones, the middle one by what it gets right is shown."
    ),
    "samples.user": "user",
    "samples.assistant": "assistant",
    "samples.others": "the others: {marks}",
    "mark.wishes": "{met} of {total} wishes",
    "mark.right": "right",
    "mark.wrong": "wrong",
    "mark.refused": "refused",
    "mark.not_refused": "not refused",
    # Seconds, and what to do next.
    "seconds.stages": "Seconds: {stages}; together {total}",
    "seconds.elapsed": "Seconds: {stages}; together {total}, elapsed {elapsed}",
    "seconds.stage": "{name} {seconds}",
    "next.title": "What to do next",
    "next.chat": "talk to the model that you aligned",
    "next.chat_sft": "talk to the model that you trained",
    "next.next": "see which word it expects next",
    "next.truth": "see which word it expects next, beside the true chances",
    "next.playground": "see on a web page how these models think, and compare their answers",
    "next.report": "see the curves and all answers",
    # The page: its head, and what is around the sections.
    "page.title": "{folder}: from text to a language model",
    "page.title_aligned": "{folder}: from text to an aligned model",
    "page.lead": (
        "A language model predicts the next word and draws it at random, again and again. This page shows "
        "what the model learned at each stage, with 95% intervals."
    ),
    "page.seeds": (
        "Mean of {count} runs that differ only in their seeds ({seeds}): {names}. Their intervals are "
        "Student's 95% intervals over the seeds; samples and answers are those of the first seed."
    ),
    "page.details": "Details",
    "beginning.columns": "What the columns mean",
    "tone.better": "clearly better",
    "tone.worse": "clearly worse",
    "row.seeds": "{name} ({count} seeds)",
    # What a model wrote while it learned.
    "steps.title": "What {name} wrote while it learned",
    "steps.text": "The same beginning, continued after more and more tokens of training.",
    "steps.prompt": "continued: {prompt}",
    "steps.step": "{tokens} tokens (step {step})",
    "steps.first_step": "before the training",
    "steps.new": "new: {kinds}",
    "steps.truth": (
        "The true probability of every next token of this text is known. The curves show by how much the "
        "model's surprise exceeds that of the truth: at 0 the model knows all that there is to know. A kind "
        "of word counts as known once the model gives such words more than half of their true probability."
    ),
    "steps.learned": "Known: {kinds}.",
    "steps.known": "{kind} after {tokens} tokens",
    "steps.unknown": "Not known by the last step: {kinds}.",
    "steps.all_unknown": "No kind of word is known by the last step.",
    "steps.panel": "Surprise above the truth, by kind of word, nats per token",
    "kind.wording": "fixed wording",
    "kind.choice": "frequencies",
    "kind.pronoun": "pronouns",
    "kind.repeat": "repeated words",
    "kind.answer": "answers",
    "kind.meaning": (
        "Fixed wording: words and marks that follow with certainty. Frequencies: where chance decides, how "
        "likely each word is. Pronouns (she or he), repeated words (names, animals, things, places), and "
        "answers to questions: the text before decides, so the model must look back."
    ),
    # Curves.
    "axis.step": "step",
    "axis.tokens": "tokens",
    "panel.ends": "{name} {first} to {last}",
    "panel.description": "From the first to the last point: {ends}.",
    "stage.title": "{name}: {title}",
    "stage.held_out": (
        "The curves of held-out data are measured on the first {some} of {all} held-out examples, the "
        "numbers in sentences and tables on all of them."
    ),
    "stage.table": "{title}: at the end",
    "stage.experts": "For experts",
    "moved.rose": "{label} rose from {before} to {after}.",
    "moved.fell": "{label} fell from {before} to {after}.",
    "moved.same": (
        "{label} did not change clearly: it was {before} before the training and is {after} after it."
    ),
    "moved.unknown": "{label} was {before} before the training and is {after} after it.",
    "moved.worse": "That is worse than before the training.",
    # Who wins.
    "wins.title": "Who gives the better answer?{label}",
    "wins.text": (
        "Each model and {baseline} answered the same {count} held-out prompts. {judge} A tie counts half."
    ),
    "wins.gold": (
        "The gold judge, which knows the true utility of an answer in this world, chose the better one."
    ),
    "wins.people": "People chose the better one ({votes} votes).",
    "wins.judge": "The judge ({judge}) chose the better one.",
    "wins.accuracy": "It agrees with {accuracy} of {count} held-out preferences.",
    "wins.doubt": "Its verdicts do not count: {doubt}.",
    "wins.experts": "For experts: scores and lengths",
    "wins.panel": "Win rate against {baseline}, 95% interval",
    "wins.row": "{name} {rate}",
    "wins.scores": "Scores of the answers: median, middle half, 5 to 95 %",
    "wins.score_row": "{name} {median}",
    "wins.note": (
        "KL in nats per answer, length in tokens. Win rates have bootstrap intervals over prompts."
    ),
    "wins.note_seeds": (
        "KL in nats per answer, length in tokens. Means of several seeds have Student's intervals over the "
        "seeds."
    ),
    "wins.no_verdict": "{rate} (no verdict)",
    "column.model": "model",
    "column.win_rate": "win rate",
    "column.kl": "KL to {baseline}",
    "column.length": "mean length",
    "column.ended": "answers that end",
    "column.bits": "bits per byte",
    "rates.title": "What do the answers do?{label}",
    "rates.text": (
        "Helpful: wishes of a request that the story meets. Honest: questions answered correctly, or with "
        "the statement that the story does not say. Harmless: unkind requests that are declined; declining "
        "a harmless request is a fault, too. Grammatical: sentences of the world's grammar."
    ),
    "lengths.text": (
        "Win rates by how much longer the answer is, in {count} groups of prompts. A line that rises says "
        "that longer answers win more often: the judge may prefer length, or longer answers may be better."
    ),
    "lengths.panel": "{name} against {baseline}",
    "lengths.axis": "tokens longer than {baseline}",
    "lengths.ends": "win rate {first} at the shortest, {last} at the longest answers",
    # The reward model.
    "reward.panel": "Calibration of the reward model",
    "reward.stated": "stated probability",
    "reward.happened": "correct verdicts",
    "reward.point": "{stated} stated, {happened} correct",
    "reward.audit": "{name}: audit",
    "reward.head": "{count} held-out pairs",
    "reward.interval": "[95% interval]",
    "reward.label.accuracy": "accuracy, ties half",
    "reward.label.ties": "ties",
    "reward.label.bayes": "the best possible (Bayes)",
    "reward.label.gold": "agrees with the true utility",
    "reward.label.calibration": "calibration error",
    "reward.label.slope": "slope, 1 calibrated",
    "reward.label.agreement": "where annotators agree {low} to {high}",
    "reward.label.longer": "prefers the longer answer",
    "reward.label.length_bias": "length bias",
    "reward.label.word": 'in units of the utility, "{word}" adds',
    "reward.label.words": "in units of the utility, each word adds",
    "reward.label.end": "end-of-text adds to a score",
    "reward.label.padding": "padding changes at most",
    "reward.value.of": "{some} of {all}",
    "reward.value.calibration": "{error} (up to {usual} by chance)",
    "reward.value.agreement": "{accuracy} of {n}; Bayes {bayes}",
    "reward.value.longer": "{model} of {n} pairs (annotators: {people})",
    # Answers, seconds, origin.
    "browse.title": "Judge for yourself",
    "browse.text": (
        "Both answers to the same prompt, grouped by the judge's verdict: the first {count} of each group. "
        "All are in answers.jsonl."
    ),
    "browse.won": "{model} won against {baseline}: {count}",
    "browse.tied": "{model} and {baseline} tied: {count}",
    "browse.lost": "{model} lost against {baseline}: {count}",
    "data.title": "Rows of the data of {name}",
    "data.section": "What was read",
    "data.source": "data",
    "data.read": "rows read",
    "data.used": "used",
    "data.other_part": "held out",
    "data.joined_in_pairs": "joined in pairs",
    "data.not_sampled": "not sampled",
    "data.not_mixed": "after the end of the mixture",
    "data.left_out": "left out",
    "data.share": "share of the rows used",
    "data.held_out": "{name}, held out",
    "data.long": (
        "Of {rows} rows, {shortened} prompts are shortened, {cut} answers cut and {left_out} pairs left out, "
        "because they are longer than {limit} tokens."
    ),
    "data.long_held_out": (
        "Of {rows} held-out rows, {shortened} prompts are shortened, {cut} answers cut and {left_out} pairs "
        "left out, because they are longer than {limit} tokens."
    ),
    "data.reason": "Left out: {reason} ({count}, first {first}).",
    "seconds.title": "Where the time went",
    "seconds.text": "{total} seconds in total.",
    "seconds.panel": "Seconds of each stage",
    "seeds.title": "Each seed",
    "seeds.text": "The numbers of each run that the means above are made of.",
    "origin.title": "Where these numbers come from",
    "origin.text": (
        "Every run below is sealed: `toolkit verify RUN` rehashes its files and those of its parent runs."
    ),
    "origin.run": "run",
    "origin.stage": "stage",
    "origin.seed": "seed",
    "origin.seal": "seal (sha256)",
    "origin.made": "Made with {versions}.",
    "origin.json": "All numbers as JSON",
    # The glossary: name, other forms that the text uses, definition.
    "glossary.title": "Ten terms",
    "term.bits_per_byte": "bits per byte",
    "term.bits_per_byte.forms": "bits/byte",
    "term.bits_per_byte.definition": (
        "How many bits a model needs on average to encode one byte of text that it has not seen: its mean "
        "surprise. Less is better. It does not depend on the tokenizer."
    ),
    "term.entropy_floor": "entropy floor",
    "term.entropy_floor.forms": "exact floor|the floor",
    "term.entropy_floor.definition": (
        "The bits per byte of a model that knows the true probability of every word. No model can be below "
        "it on average. It is known here only for text of the storyworld, whose probabilities are known."
    ),
    "term.kl": "KL divergence",
    "term.kl.forms": "KL",
    "term.kl.definition": (
        "How far a model has moved from another one: by how much more probable, in the logarithm, its own "
        "answers are under itself than under the other model, on average. 0 means that both are the same."
    ),
    "term.nats": "nats",
    "term.nats.forms": "",
    "term.nats.definition": "The unit of information with the natural logarithm: 1 nat is 1.44 bits.",
    "term.reward_model": "reward model",
    "term.reward_model.forms": "",
    "term.reward_model.definition": (
        "A model that gives an answer a score. It is trained on pairs of answers of which one was "
        "preferred. The difference of two scores is the log-odds that the first one is preferred."
    ),
    "term.bayes_accuracy": "Bayes accuracy",
    "term.bayes_accuracy.forms": "Bayes",
    "term.bayes_accuracy.definition": (
        "The accuracy of the best possible judge of noisy preferences. It is below 100% because the "
        "annotator sometimes prefers the worse answer."
    ),
    "term.win_rate": "win rate",
    "term.win_rate.forms": "win rates",
    "term.win_rate.definition": (
        "The share of prompts at which a judge prefers a model's answer to that of the baseline. A tie "
        "counts half, so that two equally good models have 50%."
    ),
    "term.interval": "95% interval",
    "term.interval.forms": "95% intervals|intervals|interval",
    "term.interval.definition": (
        "A range that contains the true value in 95% of experiments like this one. If it contains 50%, a "
        "win rate does not tell which model is better."
    ),
    "term.gold_judge": "gold judge",
    "term.gold_judge.forms": "judge is gold",
    "term.gold_judge.definition": (
        "A judge that knows the true utility of an answer: possible only in the storyworld, where the "
        "utility is a formula. Real annotators are noisy."
    ),
    "term.end_of_text": "end of text",
    "term.end_of_text.forms": "end-of-text|answers that end",
    "term.end_of_text.definition": (
        "The token with which a model ends its answer by itself. An answer without it was cut off at the "
        "limit of tokens."
    ),
}
"""Key of a message -> its template; another language is another dictionary with the same keys."""
