"""Short reviews written for this experiment, half of them praise: a task of two label words."""

from __future__ import annotations

__all__ = ["LABELS", "NEGATIVE", "POSITIVE", "SHOWN"]

LABELS = ("positive", "negative")

SHOWN = (
    ("The soup was wonderful and the waiter made us laugh.", "positive"),
    ("The room smelled of smoke and nobody answered the phone.", "negative"),
)
"""Demonstrations, the same before every review."""

POSITIVE = (
    "A charming film with a cast that clearly enjoys every minute.",
    "The best bread in town, still warm when we got home.",
    "I finished the book in one night and started it again at breakfast.",
    "The staff found my lost bag within the hour.",
    "These boots kept my feet dry through a week of rain.",
    "Our guide knew every bird by its song and was patient with the children.",
    "The battery lasts three days and the screen is bright in the sun.",
    "The orchestra played with such warmth that people stood up to cheer.",
    "A comfortable bed, a quiet street, and a view of the harbour.",
    "The app does exactly what it promises and never crashes.",
    "My daughter loves her new bicycle and rides it every day.",
    "The cake looked beautiful and tasted even better.",
    "An honest mechanic who fixed the noise and charged very little.",
    "The lessons are clear, and I learned more in a month than in a year at school.",
    "The garden was in full bloom and the tea was excellent.",
    "He answered all our questions and the repair was done the same day.",
    "A thrilling ending that I did not see coming.",
    "The lamp is easy to put together and gives a lovely soft light.",
    "Fresh fish, friendly people, and fair prices.",
    "The jacket fits perfectly and the colour is gorgeous.",
    "We felt welcome from the first minute and are already planning to return.",
    "The songs are catchy and her voice has never sounded better.",
    "The dentist was gentle and I felt no pain at all.",
    "This pan heats evenly and nothing sticks to it.",
    "A moving story, told with humour and great care.",
    "The train was on time, clean and almost empty.",
    "The puppy class was fun, and our dog now comes when we call.",
    "The museum is small but delightful, with helpful notes in every room.",
    "The paint covered the old stains in one coat and dried quickly.",
    "The coach believed in me, and I ran my first race with a smile.",
    "Crisp sound, light weight, and a very fair price.",
    "The market was lively and the strawberries were the sweetest I have had.",
)

NEGATIVE = (
    "A dull film with a plot that makes no sense.",
    "The bread was stale and the butter had gone off.",
    "I gave up on the book after fifty pages of empty talk.",
    "The staff lost my bag and never apologised.",
    "These boots fell apart after a week of rain.",
    "Our guide was late, rude, and knew nothing about the town.",
    "The battery dies by noon and the screen is full of scratches.",
    "The orchestra was out of tune and half the hall left early.",
    "A hard bed, a noisy street, and a view of a wall.",
    "The app crashes every time I open it.",
    "The bicycle arrived with a bent wheel and no brakes.",
    "The cake was dry and tasted of nothing.",
    "A dishonest mechanic who broke more than he fixed and charged a fortune.",
    "The lessons are confusing, and I learned nothing in a month.",
    "The garden was full of rubbish and the tea was cold.",
    "He ignored all our questions and the repair failed the next day.",
    "A terrible ending that ruined the whole story.",
    "The lamp was broken in the box and a screw was missing.",
    "Old fish, angry people, and shameful prices.",
    "The jacket is too small and the colour came off in the wash.",
    "We felt unwelcome from the first minute and will never return.",
    "The songs are boring and her voice sounds tired.",
    "The dentist was rough and I was in pain for days.",
    "This pan burns everything and the handle came loose.",
    "A clumsy story, told without humour or care.",
    "The train was two hours late, dirty and overcrowded.",
    "The puppy class was a waste of money, and our dog is more afraid than before.",
    "The museum is badly lit, and most rooms were closed without notice.",
    "The paint left ugly streaks and still smells after a month.",
    "The coach shouted at everyone, and I never want to run again.",
    "Thin sound, cheap plastic, and far too expensive.",
    "The market was dirty and the strawberries were rotten underneath.",
)
