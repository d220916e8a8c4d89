"""Match questions in English and Chinese to one list of answers; say so if no answer fits.

python examples/faq_bilingual.py
"""

from simpair import TwinTowerEncoder

FAQ = {
    "How do I reset my password?": "Open Settings, then Security, and choose Reset password.",
    "How long does a refund take?": "Refunds are paid within five working days.",
    "怎么修改收货地址？": "在“我的订单”中选择订单，然后修改地址。",
    "怎么开发票？": "在订单详情页点击“申请发票”。",
}
QUESTIONS = [
    "I forgot my password",
    "什么时候能收到退款",
    "Can I change the delivery address?",
    "忘记密码了怎么办",
    "What is the capital of France?",
]
MIN_SCORE = 0.4  # choose it on questions of your own: simpair.training.evaluate_pairs with dev=


def answer(encoder: TwinTowerEncoder, questions: list[str]) -> list[str | None]:
    """Return the answer to each question, or None if no question of the FAQ is similar enough."""
    known = list(FAQ)
    scores = encoder.similarity(questions, known)  # (questions, known)
    best = scores.argmax(axis=1)
    return [
        FAQ[known[column]] if scores[row, column] >= MIN_SCORE else None for row, column in enumerate(best.tolist())
    ]


def main() -> None:
    """Answer the questions."""
    encoder = TwinTowerEncoder.from_pretrained()
    for question, found in zip(QUESTIONS, answer(encoder, QUESTIONS), strict=True):
        print(f"{question}\n    {found or 'No answer found; please contact us.'}")


if __name__ == "__main__":
    main()
