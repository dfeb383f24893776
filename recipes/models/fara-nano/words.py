"""The words the text generator writes with: plain lists, one per part of speech."""

# ruff: noqa: SIM905 - a list literal of six hundred quoted words is no easier to read

NAMES = (
    "Ada Ben Clara David Elena Farid Grace Hugo Ines Jonas Katya Liam Mara Nils Olga Pavel Quinn Rosa Samir Tara "
    "Uma Viktor Wanda Xenia Yusuf Zoe Anouk Bruno Chloé Dmitri Émile Fatou Günter Hana Ivo José Kenji Lucía Miro "
    "Noor"
).split()

PLACES = (
    "Lisbon Oslo Kyoto Nairobi Quito Turin Gdańsk Lyon Bergen Malmö Zürich Porto Tampere Cork Leeds Bristol "
    "Utrecht Ghent Graz Riga Vilnius Tallinn Seville Naples Patras Split Varna Izmir Tunis Dakar Lagos Accra Hanoi "
    "Osaka"
).split()

NOUNS = (
    "account address airport album answer apple archive article attic autumn bakery balcony banner basket battery "
    "bench bicycle blanket boat book bottle branch bread bridge browser bucket button cabin cable calendar camera "
    "candle canal card carpet castle cellar chair channel chart cheese chimney church circle city clock cloud "
    "coast coffee column comment concert contract corner cottage counter cupboard curtain customer dashboard "
    "database desert desk device diary dinner director document door drawer dream driver engine envelope evening "
    "event factory farm fence ferry field file filter fire flower folder forest fountain friend garden gate glass "
    "glove grass guest guide guitar hammer harbour hill history horse hospital hotel house icon idea image inbox "
    "invoice island jacket journey kettle key keyboard kitchen ladder lake lamp language lantern laptop leaf "
    "letter library light line link list machine manager map market meadow meeting melody memory menu message "
    "meter milk mirror model monitor moon morning mountain museum music neighbour network newspaper night notebook "
    "number ocean office orange orchard order oven package page paint palace paper parcel park password path "
    "pencil phone photo piano picture pillow pipe plan planet plate pocket poem pond printer product profile "
    "program project question queue radio railway rain receipt record report result river road roof room rope "
    "sailor sand scarf school screen season secretary server shadow sheet shelf ship shirt shoe shop signal silver "
    "sister sketch snow soap soldier song spoon spring square stable staircase station stone storm story street "
    "student sugar suitcase summer sun supper surface table tailor teacher temple tent theatre thread ticket timer "
    "tool tower town track train tree tunnel umbrella valley village violin visitor voice wagon wall watch water "
    "weather website wheel whistle wind window winter wolf wood word worker yard"
).split()

ADJECTIVES = (
    "ancient angry bare bitter blank blue bold brave brief bright broad broken busy calm careful cheap clean clear "
    "clever cold common cosy crooked curious damp dark deep dim dry dull dusty eager early easy empty endless "
    "faint fair famous fast fine firm flat fragile free fresh friendly gentle glad golden grand gray green grey "
    "happy hard heavy hidden hollow honest hot huge idle kind large late lazy light little local lonely long loose "
    "loud lovely lucky mild modern muddy narrow neat new noisy odd old open pale patient plain pleasant polite "
    "poor proud pure quick quiet rare red rich rough round rusty sad safe secret shallow sharp short shy silent "
    "simple sleepy slow small smooth soft solid steady steep stiff strange strong sudden sunny sweet tall tame "
    "thick thin tidy tiny tired ugly useful vast warm weak wet white wide wild wise wooden yellow young"
).split()

PAST_VERBS = (
    "admired answered approached arranged avoided bought borrowed brought built called carried chose cleaned "
    "closed collected copied counted covered described discovered drew dropped examined explained fetched filled "
    "finished fixed followed forgot found gathered guarded heard held hid ignored invited kept learned left lifted "
    "liked listed lost loved measured mended missed moved named needed noticed offered opened ordered packed "
    "painted passed placed planned prepared printed promised pulled pushed reached read remembered removed "
    "repaired returned saved saw sent sketched sold started stopped studied supplied tested took touched traded "
    "turned used visited wanted warmed washed watched welcomed wrote"
).split()

ADVERBS = (
    "again almost already always carefully cheerfully early easily finally gladly gently happily here indeed late "
    "later nearby never often once perhaps politely quickly quietly rarely seldom silently slowly softly sometimes "
    "soon suddenly there together twice usually warmly yesterday"
).split()

PREPOSITIONS = (
    "above across after against along around before behind below beside beyond inside near outside over past "
    "through towards under"
).split()

SERVICES = (
    "auth billing cache catalog checkout crawler gateway indexer ingest mailer metrics notifier payments planner "
    "proxy renderer reports scheduler search sessions storage sync telemetry uploads webhooks workers"
).split()

SITES = (
    "example.com shop.example news.example mail.example maps.example wiki.example travel.example music.example "
    "books.example weather.example bank.example forum.example"
).split()

FAILURES = (
    "connection refused|connection reset by peer|timed out|permission denied|no such file or directory|"
    "disk quota exceeded|certificate has expired|too many open files|invalid token|checksum mismatch|"
    "unexpected end of stream|out of memory|address already in use|name resolution failed|rate limit exceeded|"
    "schema version not supported"
).split("|")
