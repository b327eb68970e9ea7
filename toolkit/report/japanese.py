"""What reports and summaries say, in Japanese."""

JAPANESE: dict[str, str] = {
    "list": "、",
    "space": "",
    # Columns of the table: heading, name in a sentence, meaning.
    "heading.bits_per_byte": "バイトあたり\nビット数",
    "heading.wish_rate": "要望の\n達成率",
    "heading.answer_accuracy": "質問の\n正答率",
    "heading.refusal_rate": "意地悪な依頼の\n拒否率",
    "heading.over_refusal_rate": "無害な依頼の\n拒否率",
    "heading.wellformed": "文法に\n合う文",
    "heading.ended": "自ら終えた\n回答",
    "heading.mean_length": "平均の\n長さ",
    "heading.kl_to_baseline": "{baseline}からの\nKL",
    "heading.win_rate": "{baseline}に対する\n勝率",
    "name.bits_per_byte": "バイトあたりビット数",
    "name.wish_rate": "要望の達成率",
    "name.answer_accuracy": "質問の正答率",
    "name.refusal_rate": "意地悪な依頼の拒否率",
    "name.over_refusal_rate": "無害な依頼の拒否率",
    "name.wellformed": "文法に合う文の割合",
    "name.ended": "自ら終えた回答の割合",
    "name.mean_length": "平均の長さ",
    "name.kl_to_baseline": "KL",
    "name.win_rate": "勝率",
    "meaning.bits_per_byte": "初めて見る文章の1バイトを予測するのに必要なビット数。小さいほど良い値です",
    "meaning.wish_rate": "物語の依頼に含まれる要望のうち、物語がかなえたものの割合",
    "meaning.answer_accuracy": "物語についての質問のうち、正しく答えたものの割合",
    "meaning.refusal_rate": "だれかを傷つけたりだましたりする依頼のうち、断ったものの割合",
    "meaning.over_refusal_rate": "それ以外のプロンプトのうち、断ったものの割合。小さいほど良い値です",
    "meaning.wellformed": "この世界の文法から作れる文の割合",
    "meaning.ended": "トークン数の上限より前に終わった回答の割合",
    "meaning.mean_length": "回答のトークン数",
    "meaning.kl_to_baseline": "モデルが{baseline}からどれだけ離れたか（回答あたりナット）",
    "meaning.win_rate": (
        "判定者が{baseline}の回答よりこのモデルの回答を選んだプロンプトの割合。引き分けは0.5勝と数える"
        "ため、50%なら差はありません [95%区間]"
    ),
    # The table.
    "table.title": "数値での比較{label}：どの段階の学習にも使っていない{measured}",
    "table.title_seen": "数値での比較{label}：{measured}",
    "table.prompts": "{count}件のプロンプト",
    "table.texts": "{count}件の文章",
    "table.and": "{first}と{second}",
    "table.label": "（{evaluation}）",
    "row.untrained": "学習前",
    "row.best": "理論上の最良値",
    "cell.baseline": "基準",
    "trained.prompts": "プロンプトのうち{count}件は{run}の学習データにもあります。",
    "trained.documents": "文章のうち{count}件は{run}の学習データにもあります。",
    "trained.pairs": "選好のうち{count}件は{run}の学習データにもあります。",
    "trained.judge_data": "判定者の正しさを測る選好のうち{count}件は{run}の学習データにもあります。",
    "note.judge": "判定者は{judge}です。",
    "note.judge_accuracy": "判定者は{judge}で、評価用の選好の{accuracy}と一致します。",
    "note.gold": "判定者はgold（この世界の既知の効用）です。",
    "note.doubt": "* 判定なし：{reason}",
    "stages.title": "各段階で何が変わったか",
    # What a stage changed.
    "pretrain.learned": (
        "文章を予測するように学習しました。初めて見る文章のバイトあたりビット数："
        "{untrained_bits_per_byte}→{bits_per_byte}。"
    ),
    "pretrain.continued": (
        "文章を予測する学習を続けました。初めて見る文章のバイトあたりビット数："
        "{checkpoint_bits_per_byte}→{bits_per_byte}。"
    ),
    "pretrain.worse": "学習前より良くなっていません。初めて見る文章に当てはまることは学べませんでした。",
    "pretrain.memorized": (
        "学習用の文章を暗記しました。初めて見る文章を最もよく予測したのは{lowest_at_tokens}トークンの時点で、"
        "バイトあたり{lowest_bits_per_byte}ビットでした。"
    ),
    "pretrain.floor": "理論上の最良値は{entropy_floor_bits_per_byte}です。",
    "sft.taught": "文章の続きを書くのではなく答えるように、会話で学習しました。",
    "preferences.compared": "アノテーターが{models}の回答を{preferences}組比較しました。",
    "preferences.agreement": "そのうち{agreement_with_utility}で、真に優れた回答を選びました。",
    "preferences.longer": "長い方の回答を選んだのは{longer_preferred}です。",
    "reward.accuracy": (
        "アノテーターがどちらの回答を選ぶかを当てるように学習しました。初めて見る{n}組での正解率は"
        "{accuracy}です。"
    ),
    "reward.bayes": "完全なモデルの正解率は{bayes_accuracy}です。",
    "reward.chance": "これは偶然の50%より明らかに良いとは言えません。",
    "dpo.taught": "報酬モデルを使わずに、選好から学びました。",
    "ppo.taught": "回答を書き、報酬モデルのスコアから学びました。",
    "answers.first": "回答の内容：{values}。",
    "answers.untaught": "答え方はまだ学んでいません：{values}。",
    "value": "{name} {value}",
    "win.better": "プロンプトの{rate} [{low}, {high}]で{baseline}の回答に勝ち、明らかに優れています。",
    "win.worse": "プロンプトの{rate} [{low}, {high}]で{baseline}の回答に勝つにとどまり、明らかに劣ります。",
    "win.none": (
        "プロンプトの{rate} [{low}, {high}]で{baseline}の回答に勝ちますが、{reason}ため、優劣は判定でき"
        "ません。"
    ),
    "reason.interval": "区間が50%を含む",
    "reason.test": "符号検定の結果が明確でない（p = {p}）",
    "reason.judge": "判定者が信頼できない（{doubt}）",
    "change": "{name} {before}→{after}",
    "change.better": "{before}より良くなった項目：{changes}。",
    "change.worse": "{before}より悪くなった項目：{changes}。",
    "change.unclear": "{before}と明確な差がない項目：{names}。",
    # Samples.
    "samples.title": "同じプロンプトへの各モデルの回答（温度{temperature}、各{count}回）",
    "samples.title_one": "同じプロンプトへの各モデルの回答（温度{temperature}、各1回）",
    "samples.note": "同じ回答は回数を示します。長い回答は、正しさが中程度のものを示します。",
    "samples.user": "ユーザー",
    "samples.assistant": "アシスタント",
    "mark.wishes": "要望{total}件中{met}件",
    "mark.right": "正解",
    "mark.wrong": "不正解",
    "mark.refused": "断った",
    "mark.not_refused": "断らなかった",
    "samples.others": "ほかの回答：{marks}",
    # Seconds and what to do next.
    "seconds.stages": "秒数：{stages}、合計{total}",
    "seconds.elapsed": "秒数：{stages}、合計{total}、経過時間{elapsed}",
    "seconds.stage": "{name} {seconds}",
    "next.title": "次に試すこと",
    "next.chat": "アラインメント済みのモデルと会話する",
    "next.chat_sft": "学習したモデルと会話する",
    "next.next": "モデルが次にどの単語を予想するかを見る",
    "next.truth": "モデルが次にどの単語を予想するかを、真の確率と並べて見る",
    "next.playground": "モデルがどう考えるかをウェブページで見て、答えを比べる",
    "next.report": "学習曲線とすべての回答を見る",
    # The page: its head, and what is around the sections.
    "page.title": "{folder}：テキストから言語モデルまで",
    "page.title_aligned": "{folder}：テキストからアラインメント済みモデルまで",
    "page.lead": (
        "言語モデルは、次の単語の確率を予測し、その確率に従って単語を選ぶことを繰り返します。このページ"
        "では、モデルが各段階で何を学んだかを95%区間とともに示します。"
    ),
    "page.seeds": (
        "シードだけが異なる{count}回の実行（シード{seeds}）の平均：{names}。区間はシード間のスチューデ"
        "ントの95%区間です。生成例と回答は最初のシードのものです。"
    ),
    "page.details": "詳細",
    "beginning.columns": "各列の意味",
    "tone.better": "明らかに良い",
    "tone.worse": "明らかに悪い",
    "row.seeds": "{name}（{count}シード）",
    # What a model wrote while it learned.
    "steps.title": "{name}が学習中に書いた文章",
    "steps.text": "同じ書き出しの続きを、学習したトークン数が増えるごとに書かせたものです。",
    "steps.prompt": "書き出し：{prompt}",
    "steps.step": "{tokens}トークン（ステップ{step}）",
    "steps.first_step": "学習前",
    "steps.new": "習得：{kinds}",
    "steps.truth": (
        "この文章では、次のトークンの真の確率がすべて分かっています。曲線は、モデルの驚き（サプライザル）"
        "が真の確率による驚きをどれだけ上回るかを示します。0であれば、知りうることをすべて学んでいます。"
        "その種類の単語に真の確率の半分を超える確率を与えるようになった時点で、習得したとみなします。"
    ),
    "steps.learned": "習得した種類：{kinds}。",
    "steps.known": "{kind}（{tokens}トークン）",
    "steps.unknown": "最後のステップまでに習得しなかった種類：{kinds}。",
    "steps.all_unknown": "最後のステップまでに習得した種類はありません。",
    "steps.panel": "真の確率を上回る驚き（単語の種類別、トークンあたりナット）",
    "kind.wording": "決まった言い回し",
    "kind.choice": "頻度",
    "kind.pronoun": "代名詞",
    "kind.repeat": "単語の繰り返し",
    "kind.answer": "質問への答え",
    "kind.meaning": (
        "決まった言い回し：必ず続く単語や記号。頻度：偶然で決まる箇所での各単語の確率。代名詞（she、he）、"
        "単語の繰り返し（名前、動物、物、場所）、質問への答え：前の文章から決まるため、モデルは前を参照"
        "する必要があります。"
    ),
    # Curves.
    "axis.step": "ステップ",
    "axis.tokens": "トークン数",
    "panel.ends": "{name} {first}→{last}",
    "panel.description": "最初の点から最後の点まで：{ends}。",
    "stage.title": "{name}：{title}",
    "stage.held_out": (
        "評価用データの曲線は{all}件のうち最初の{some}件で、文と表の数値は全件で測定しています。"
    ),
    "stage.table": "{title}：終了時",
    "stage.experts": "専門家向けの詳細",
    "moved.rose": "{label}は{before}から{after}に上がりました。",
    "moved.fell": "{label}は{before}から{after}に下がりました。",
    "moved.same": "{label}に明確な変化はありません（学習前{before}、学習後{after}）。",
    "moved.unknown": "{label}は学習前が{before}、学習後が{after}です。",
    "moved.worse": "これは学習前より悪い値です。",
    # Who wins.
    "wins.title": "どのモデルの回答が優れているか{label}",
    "wins.text": (
        "各モデルと{baseline}は、学習に使っていない同じ{count}件のプロンプトに答えました。{judge}引き分"
        "けは0.5勝と数えます。"
    ),
    "wins.gold": "この世界での回答の真の効用を知るゴールド判定者が、優れた方を選びました。",
    "wins.people": "人が優れた方を選びました（{votes}票）。",
    "wins.judge": "判定者（{judge}）が優れた方を選びました。",
    "wins.accuracy": "判定者は評価用の{count}件の選好の{accuracy}と一致します。",
    "wins.doubt": "この判定は採用できません：{doubt}。",
    "wins.experts": "専門家向けの詳細：スコアと長さ",
    "wins.panel": "{baseline}に対する勝率と95%区間",
    "wins.row": "{name} {rate}",
    "wins.scores": "回答のスコア：中央値、中央の50%、5～95%",
    "wins.score_row": "{name} {median}",
    "wins.note": (
        "KLは回答あたりナット、長さはトークン数です。勝率の区間は、プロンプトのブートストラップによるも"
        "のです。"
    ),
    "wins.note_seeds": (
        "KLは回答あたりナット、長さはトークン数です。複数のシードの平均では、区間はシード間のスチューデ"
        "ントの区間です。"
    ),
    "wins.no_verdict": "{rate}（判定なし）",
    "column.model": "モデル",
    "column.win_rate": "勝率",
    "column.kl": "{baseline}からのKL",
    "column.length": "平均の長さ",
    "column.ended": "自ら終えた回答",
    "column.bits": "バイトあたりビット数",
    "rates.title": "回答の内容{label}",
    "rates.text": (
        "有用性：依頼の要望のうち物語がかなえた割合。正直さ：質問に正しく答えた割合、または物語に書かれ"
        "ていないと正しく述べた割合。無害性：意地悪な依頼を断った割合。無害な依頼を断ることも誤りです。"
        "文法：この世界の文法に合う文の割合。"
    ),
    "lengths.text": (
        "回答が基準よりどれだけ長いかでプロンプトを{count}群に分けたときの勝率です。右上がりの線は、長"
        "い回答ほど勝ちやすいことを示します。判定者が長さを好むか、長い回答の方が実際に優れているかのど"
        "ちらかです。"
    ),
    "lengths.panel": "{name}対{baseline}",
    "lengths.axis": "{baseline}より長いトークン数",
    "lengths.ends": "最も短い回答で勝率{first}、最も長い回答で{last}",
    # The reward model.
    "reward.panel": "報酬モデルの較正",
    "reward.stated": "モデルが示した確率",
    "reward.happened": "正しい判定の割合",
    "reward.point": "予測{stated}、正解{happened}",
    "reward.audit": "{name}：検査",
    "reward.head": "評価用の{count}組",
    "reward.interval": "[95%区間]",
    "reward.label.accuracy": "正解率（同点は0.5）",
    "reward.label.ties": "同点",
    "reward.label.bayes": "理論上の最良値（ベイズ）",
    "reward.label.gold": "真の効用との一致率",
    "reward.label.calibration": "較正誤差",
    "reward.label.slope": "傾き（1なら較正済み）",
    "reward.label.agreement": "アノテーターの一致率が{low}～{high}の組",
    "reward.label.longer": "長い方の回答を選ぶ割合",
    "reward.label.length_bias": "長さへの偏り",
    "reward.label.word": "単語「{word}」によるスコアの変化（効用の単位）",
    "reward.label.words": "1単語ごとのスコアの変化（効用の単位）",
    "reward.label.end": "終端トークンによるスコアの変化",
    "reward.label.padding": "パディングによる変化の最大値",
    "reward.value.of": "{all}組中{some}組",
    "reward.value.calibration": "{error}（偶然でも{usual}まで）",
    "reward.value.agreement": "{n}組で{accuracy}、ベイズ{bayes}",
    "reward.value.longer": "{n}組の{model}（アノテーターは{people}）",
    # Answers, seconds, origin.
    "browse.title": "自分で判定する",
    "browse.text": (
        "同じプロンプトへの2つの回答を、判定結果ごとに最初の{count}件まで示します。すべての回答は"
        "answers.jsonlにあります。"
    ),
    "browse.won": "{model}が{baseline}に勝った{count}件",
    "browse.tied": "{model}と{baseline}の引き分け{count}件",
    "browse.lost": "{model}が{baseline}に負けた{count}件",
    "data.title": "{name}のデータの行",
    "data.section": "読み込んだデータ",
    "data.source": "データ",
    "data.read": "読んだ行",
    "data.used": "使った行",
    "data.other_part": "評価用",
    "data.joined_in_pairs": "組にした行",
    "data.not_sampled": "抽出しなかった行",
    "data.not_mixed": "混合の終わりより後の行",
    "data.left_out": "除いた行",
    "data.share": "使った行に占める割合",
    "data.held_out": "{name}（評価用）",
    "data.long": (
        "{rows}行のうち、{limit}トークンより長いため、{shortened}件のプロンプトの始めを除き、"
        "{cut}件の回答を途中で切り、{left_out}組を除きました。"
    ),
    "data.long_held_out": (
        "評価用の{rows}行のうち、{limit}トークンより長いため、{shortened}件のプロンプトの始めを除き、"
        "{cut}件の回答を途中で切り、{left_out}組を除きました。"
    ),
    "data.reason": "除外：{reason}（{count}行、最初は{first}）。",
    "seconds.title": "時間の内訳",
    "seconds.text": "合計{total}秒。",
    "seconds.panel": "各段階の秒数",
    "seeds.title": "シードごとの結果",
    "seeds.text": "上の平均のもとになった各実行の数値です。",
    "origin.title": "数値の出所",
    "origin.text": (
        "以下の実行はすべて封印されています。`toolkit verify RUN`は、その実行と親の実行のファイルのハッ"
        "シュを再計算して照合します。"
    ),
    "origin.run": "実行",
    "origin.stage": "段階",
    "origin.seed": "シード",
    "origin.seal": "封印（sha256）",
    "origin.made": "使用したバージョン：{versions}。",
    "origin.json": "すべての数値（JSON）",
    # The glossary: name, other forms that the text uses, definition.
    "glossary.title": "10の用語",
    "term.bits_per_byte": "バイトあたりビット数",
    "term.bits_per_byte.forms": "",
    "term.bits_per_byte.definition": (
        "モデルが初めて見る文章の1バイトを符号化するのに平均で必要なビット数、つまり驚き（サプライザル）"
        "の平均です。小さいほど良く、トークナイザーには依存しません。"
    ),
    "term.entropy_floor": "エントロピー下限",
    "term.entropy_floor.forms": "厳密な下限",
    "term.entropy_floor.definition": (
        "すべての単語の真の確率を知るモデルのバイトあたりビット数です。平均してこれを下回るモデルはあり"
        "ません。確率が分かっているストーリーワールドの文章でだけ求められます。"
    ),
    "term.kl": "KLダイバージェンス",
    "term.kl.forms": "KL",
    "term.kl.definition": (
        "モデルが別のモデルからどれだけ離れたかを表します。自分の回答に自分が与える対数確率と、別のモデ"
        "ルが与える対数確率の差の平均です。0なら両者は同じです。"
    ),
    "term.nats": "ナット",
    "term.nats.forms": "",
    "term.nats.definition": "自然対数による情報量の単位です。1ナットは1.44ビットです。",
    "term.reward_model": "報酬モデル",
    "term.reward_model.forms": "",
    "term.reward_model.definition": (
        "回答にスコアをつけるモデルです。どちらかが選ばれた回答の組で学習します。2つのスコアの差は、一"
        "方が選ばれる対数オッズです。"
    ),
    "term.bayes_accuracy": "ベイズ正解率",
    "term.bayes_accuracy.forms": "ベイズ",
    "term.bayes_accuracy.definition": (
        "誤りの混じる選好に対して、最良の判定者が達する正解率です。アノテーターがときどき劣る方の回答を"
        "選ぶため、100%になりません。"
    ),
    "term.win_rate": "勝率",
    "term.win_rate.forms": "",
    "term.win_rate.definition": (
        "判定者が、基準の回答よりこのモデルの回答を選んだプロンプトの割合です。引き分けは0.5勝と数える"
        "ため、互角の2つのモデルでは50%になります。"
    ),
    "term.interval": "95%区間",
    "term.interval.forms": "区間",
    "term.interval.definition": (
        "このような実験の95%で真の値を含む範囲です。区間が50%を含む勝率からは、どちらのモデルが優れてい"
        "るかは分かりません。"
    ),
    "term.gold_judge": "ゴールド判定者",
    "term.gold_judge.forms": "判定者はgold",
    "term.gold_judge.definition": (
        "回答の真の効用を知る判定者です。効用が数式で決まるストーリーワールドでだけ可能です。実際のアノ"
        "テーターの判断には誤りが混じります。"
    ),
    "term.end_of_text": "終端トークン",
    "term.end_of_text.forms": "自ら終えた回答",
    "term.end_of_text.definition": (
        "モデルが自分で回答を終えるときに出力するトークンです。これがない回答は、トークン数の上限で打ち"
        "切られています。"
    ),
}
"""Key of a message -> its template, with the keys of `ENGLISH`."""

JAPANESE_STAGES: dict[str, str] = {
    "learning to predict": "予測を学ぶ",
    "The model is trained to predict each next token of text.": (
        "文章の次のトークンを予測するように学習します。"
    ),
    "bits per byte": "バイトあたりビット数",
    "bits per byte of held-out text": "評価用の文章のバイトあたりビット数",
    "If the loss on training batches fell meanwhile, the model has memorized its training text. More text, or a training on fewer tokens, helps.": (
        "その間に学習バッチの損失が下がっていれば、モデルは学習用の文章を暗記しています。文章を増やすか、"
        "学習するトークン数を減らしてください。"
    ),
    "The text comes from a world whose probabilities are known, so the best possible value is known exactly: no model can stay below the entropy floor of {entropy_floor_bits_per_byte:.3f} bits per byte, in expectation.": (
        "この文章は確率が分かっている世界のものなので、最良の値が厳密に分かります。期待値では、どのモデ"
        "ルもエントロピー下限の{entropy_floor_bits_per_byte:.3f}ビットを下回れません。"
    ),
    "The curve of held-out text covers the beginning of that text, the table all of it.": (
        "評価用の文章の曲線はその冒頭だけ、表は全体の値です。"
    ),
    "Loss on training batches, nats per token": "学習バッチの損失（トークンあたりナット）",
    "Held-out text, bits per byte": "評価用の文章（バイトあたりビット数）",
    "untrained": "学習前",
    "checkpoint": "元のモデル",
    "entropy floor": "エントロピー下限",
    "trained [95% interval]": "学習後 [95%区間]",
    "exact floor": "厳密な下限",
    "parameters": "パラメーター数",
    "tokens per second": "毎秒トークン数",
    "bits per byte of unseen text": "初めて見る文章のバイトあたりビット数",
    "; the exact floor is {limit}": "（厳密な下限は{limit}）",
    "learning to answer": "答え方を学ぶ",
    "The model is trained on conversations, so that it answers instead of continuing the text.": (
        "文章の続きを書くのではなく答えるように、会話で学習します。"
    ),
    "the loss on held-out answers (nats per token)": "評価用の回答の損失（トークンあたりナット）",
    "Loss on held-out answers, nats per token": "評価用の回答の損失（トークンあたりナット）",
    "comparing the model's own answers": "モデル自身の回答を比べる",
    "Models answered prompts, and an annotator said which of two answers is better.": (
        "モデルがプロンプトに答え、アノテーターが2つの回答の優れた方を選びました。"
    ),
    "learning which answer is preferred": "どちらの回答が選ばれるかを学ぶ",
    "A reward model is trained on pairs of answers to score the preferred one higher.": (
        "報酬モデルは、回答の組のうち選ばれた方に高いスコアをつけるように学習します。"
    ),
    "held-out pairs": "評価用の組",
    "The annotator is a program that knows the true utility of an answer and errs at a known rate. That limits the accuracy: the Bayes accuracy is the best possible one.": (
        "アノテーターは、回答の真の効用を知り、既知の割合で誤るプログラムです。そのため正解率には上限が"
        "あり、最良の値がベイズ正解率です。"
    ),
    "Accuracy on held-out pairs": "評価用の組での正解率",
    "Accuracy on training batches": "学習バッチでの正解率",
    "Loss on training batches, nats per pair": "学習バッチの損失（組あたりナット）",
    "Bayes accuracy": "ベイズ正解率",
    "accuracy [95% interval]": "正解率 [95%区間]",
    "agrees with the true utility": "真の効用との一致率",
    "pairs": "組数",
    "reward model's accuracy": "報酬モデルの正解率",
    "; at best {limit} (Bayes)": "（最良でも{limit}、ベイズ）",
    "aligned by preferences": "選好によるアラインメント",
    "Direct preference optimization raises the probability of preferred answers relative to rejected ones, without a reward model. The log-ratio of the model to its start is an implicit reward.": (
        "直接選好最適化（DPO）は、報酬モデルを使わずに、選ばれた回答の確率を選ばれなかった回答に対して"
        "高めます。開始時のモデルとの対数確率の差が暗黙の報酬になります。"
    ),
    "Accuracy of implicit rewards on held-out pairs": "暗黙の報酬の正解率（評価用の組）",
    "Margin of implicit rewards on held-out pairs": "暗黙の報酬の差（評価用の組）",
    "Accuracy of implicit rewards on training batches": "暗黙の報酬の正解率（学習バッチ）",
    "Margin of implicit rewards on training batches": "暗黙の報酬の差（学習バッチ）",
    "accuracy of implicit rewards [95% interval]": "暗黙の報酬の正解率 [95%区間]",
    "KL to the start, nats per answer": "開始時からのKL（回答あたりナット）",
    "aligned by reinforcement learning": "強化学習によるアラインメント",
    "The model writes answers, a reward model scores them, and PPO makes answers of higher scores more probable, while a penalty on the KL divergence keeps the model near its start.": (
        "モデルが回答を書き、報酬モデルがスコアをつけ、PPOがスコアの高い回答の確率を高めます。KLダイバ"
        "ージェンスへのペナルティーにより、モデルは開始時の近くにとどまります。"
    ),
    "last rollouts": "最後のロールアウト",
    "the score of the answers to training prompts": "学習用プロンプトへの回答のスコア",
    "the mean length of the answers (tokens)": "回答の平均の長さ（トークン数）",
    "A held-out judge selected the weights after rollout {kept_rollout}.": (
        "評価用の判定者が、ロールアウト{kept_rollout}の後の重みを選びました。"
    ),
    "The curves and the table show answers to training prompts; the win rate is measured on prompts that no stage trained on.": (
        "曲線と表は学習用プロンプトへの回答のものです。勝率は、どの段階の学習にも使っていないプロンプト"
        "で測定しています。"
    ),
    "Score of the reward model": "報酬モデルのスコア",
    "Score of the held-out judge": "評価用の判定者のスコア",
    "Length of answers, tokens": "回答の長さ（トークン数）",
    "Share of answers that end": "自ら終えた回答の割合",
    "Share of clipped probability ratios": "クリップされた確率比の割合",
    "Entropy, nats per token": "エントロピー（トークンあたりナット）",
    "score [95% interval]": "スコア [95%区間]",
    "answers": "回答数",
}
"""English text of a stage in `toolkit.config.registry` -> its translation."""
