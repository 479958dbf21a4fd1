"""Closed word lists from which the instruction tasks draw their values."""

FIRST_NAMES = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack",
    "Karen", "Leo", "Maria", "Noah", "Olga", "Paul", "Rosa", "Simon", "Tara", "Victor",
    "Alice", "Bruno", "Diana", "Erik", "Fiona", "George", "Hanna", "Ivan", "Julia", "Kevin",
    "Laura", "Martin", "Nina", "Oscar", "Peter", "Ruth", "Sara", "Thomas", "Vera", "Walter",
)  # fmt: skip
LAST_NAMES = (
    "Adams", "Baker", "Carter", "Dixon", "Evans", "Fisher", "Green", "Hill", "Irving", "Jones",
    "King", "Lewis", "Miller", "Nelson", "Owens", "Parker", "Quinn", "Reed", "Stone", "Turner",
    "Usher", "Vance", "Weber", "Young", "Abbott", "Brooks", "Clark", "Davis", "Ellis", "Ford",
)  # fmt: skip
CITIES = (
    "Berlin", "Paris", "Rome", "Madrid", "Vienna", "London", "Oslo", "Prague", "Lisbon", "Dublin",
    "Athens", "Warsaw", "Zurich", "Geneva", "Munich", "Milan", "Lyon", "Porto", "Ghent", "Turin",
)  # fmt: skip
JOBS = (
    "teacher", "doctor", "baker", "pilot", "nurse", "lawyer", "farmer", "driver", "painter",
    "singer", "writer", "cook", "judge", "editor", "guide", "dentist",
)  # fmt: skip
ITEMS = (
    "lamp", "chair", "table", "book", "pen", "phone", "bag", "clock", "cup", "bike",
    "shirt", "shoe", "ring", "desk", "sofa", "camera", "knife", "mirror", "pillow", "basket",
)  # fmt: skip
COLORS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey", "pink", "orange")
COUNTED_THINGS = ("apples", "coins", "stamps", "books", "cards", "eggs", "pens", "stones")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
DAYS_IN_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
