/**
 * The people of the demonstration and what happens to them. All invented. Days count from the day the demo is loaded:
 * -7 is a week ago; `time` is what a clock in the therapist's town shows.
 */

export type TherapistStory = {
  readonly key: 'brandt' | 'ferreira'
  readonly name: string
  readonly specialisation: string
  readonly bio: string
  readonly licence: string
  readonly price: number
  readonly zone: string
  /** Slots nobody has booked yet: [day, time]. */
  readonly free: readonly (readonly [day: number, time: string])[]
}

export type Entry = {
  readonly day: number
  readonly kind: 'soap_note' | 'diagnosis' | 'risk' | 'plan'
  readonly text: string
  readonly icd?: string
  readonly risk?: 'none' | 'low' | 'medium' | 'high'
  readonly released?: boolean
}

export type PatientStory = {
  readonly therapist: TherapistStory['key']
  readonly first: string
  readonly last: string
  readonly born: string
  readonly phone: string
  readonly address: string
  readonly emergency: string
  readonly insurance: string
  /** The weekly session: day of the first one, how many, and the time. */
  readonly sessions: { readonly from: number; readonly weeks: number; readonly time: string; readonly kind: 'video' | 'in_person'; readonly missed?: number }
  readonly messages: readonly (readonly [day: number, from: 'patient' | 'therapist', text: string])[]
  readonly records: readonly Entry[]
  /** Notes on the session of a week, counted from 0. */
  readonly notes: readonly { readonly week: number; readonly by: 'patient' | 'therapist'; readonly text: string; readonly released?: boolean }[]
}

export const therapists: readonly TherapistStory[] = [
  {
    key: 'brandt', name: 'Dr. Helene Brandt', specialisation: 'Depression, anxiety, panic',
    bio: 'Behavioural therapy in Berlin-Kreuzberg since 2009. I like to begin with what you can try before we meet again.',
    licence: 'BE 2009-04417', price: 11_000, zone: 'Europe/Berlin', free: [[2, '17:30'], [5, '08:00'], [9, '17:30']],
  },
  {
    key: 'ferreira', name: 'Dr. Tomás Ferreira', specialisation: 'Grief, trauma, life changes',
    bio: 'I work from Lisbon, in person and by video, in Portuguese, English and German.',
    licence: 'OPP 21873', price: 8_500, zone: 'Europe/Lisbon', free: [[3, '18:30'], [6, '09:00'], [10, '18:30']],
  },
]

export const patients: readonly PatientStory[] = [
  {
    therapist: 'brandt', first: 'Jonas', last: 'Keller', born: '1989-11-03', phone: '+49 30 901820', address: 'Oranienstraße 112, 10969 Berlin',
    emergency: 'Lena Keller (sister), +49 30 901821', insurance: 'K512330987',
    sessions: { from: -27, weeks: 7, time: '09:00', kind: 'in_person' },
    messages: [
      [-25, 'patient', 'Good morning Dr. Brandt, the breathing exercise helped on Tuesday. On Thursday in the underground it did not, I got off two stops early.'],
      [-25, 'therapist', 'Thank you for telling me right away. Getting off is information, not failure. Please note time, place and how high it went from 0 to 10; we look at it on your next visit.'],
      [-12, 'patient', 'Rode the U8 to Hermannplatz and back. 6 out of 10, then 4.'],
      [-11, 'therapist', 'That is exactly the curve we talked about. Same line again before we meet, please.'],
    ],
    records: [
      { day: -27, kind: 'diagnosis', text: 'Panic attacks since March, at first in the underground, then in lifts. Avoids both. No cardiac findings (GP letter). Sleep fair, no suicidal thoughts.', icd: 'F40.01', risk: 'none', released: true },
      { day: -20, kind: 'soap_note', text: 'S: three attacks this week, the longest 15 min. O: calm in the room, good rapport. A: avoidance is what keeps it going. P: hierarchy of exposures, begin with one stop outside the rush hour.' },
      { day: -13, kind: 'plan', text: 'Exposure twice a week, own log. Reduce safety behaviour (phone in hand, seat by the door). Review after four sessions.', released: true },
      { day: -6, kind: 'soap_note', text: 'S: two rides completed. O: describes the second with some pride. A: habituation sets in. P: lifts next.' },
    ],
    notes: [
      { week: 1, by: 'patient', text: 'I want to ask whether coffee makes it worse.' },
      { week: 2, by: 'therapist', text: 'Speaks about the father for the first time, then changes the subject. Leave room for it.' },
      { week: 3, by: 'therapist', text: 'Homework for next week: lift to the third floor, twice, without the phone in hand.', released: true },
    ],
  },
  {
    therapist: 'brandt', first: 'Mira', last: 'Vogel', born: '1996-02-18', phone: '+49 341 1234560', address: 'Karl-Heine-Straße 54, 04229 Leipzig',
    emergency: 'Ute Vogel (mother), +49 341 1234561', insurance: 'M884120035',
    sessions: { from: -26, weeks: 6, time: '10:30', kind: 'video', missed: 2 },
    messages: [
      [-18, 'patient', 'I slept through our video call last week and did not dare to write. I am sorry.'],
      [-18, 'therapist', 'It is good that you write now. Nothing is lost; let us talk about the not daring.'],
      [-4, 'patient', 'Back at the seminar since Monday. I only stayed one hour, but I spoke.'],
    ],
    records: [
      { day: -26, kind: 'diagnosis', text: 'Moderate depressive episode, about five months. Loss of interest, early waking, withdrew from university in May. PHQ-9: 16.', icd: 'F32.1', risk: 'low', released: true },
      { day: -19, kind: 'risk', text: 'Passive thoughts ("it would be easier not to wake up"), no plan, no intent, clear reasons to live (sister, dog). Crisis plan made together, GP informed with her agreement.', risk: 'medium' },
      { day: -5, kind: 'soap_note', text: 'S: first week back, proud and exhausted. O: more lively than three weeks ago. A: activation works. P: keep the weekly plan, PHQ-9 next time.' },
    ],
    notes: [{ week: 3, by: 'patient', text: 'Things that went well: dog, Tuesday, the soup.' }],
  },
  {
    therapist: 'brandt', first: 'Aylin', last: 'Demir', born: '1978-07-29', phone: '+49 30 5557710', address: 'Sonnenallee 201, 12059 Berlin',
    emergency: 'Can Demir (husband), +49 30 5557711', insurance: 'D220145876',
    sessions: { from: -12, weeks: 5, time: '16:15', kind: 'in_person' },
    messages: [
      [-9, 'patient', 'Could we move to the evening from next month on? The school has changed my timetable.'],
      [-8, 'therapist', 'Yes. I have offered two evening slots, take whichever suits you.'],
    ],
    records: [
      { day: -12, kind: 'diagnosis', text: 'Exhaustion after two years of caring for her father beside full-time teaching. Adjustment disorder, no depressive episode. PHQ-9: 9.', icd: 'F43.2', risk: 'none', released: true },
      { day: -5, kind: 'plan', text: 'Respite care twice a month (form handed over), one evening a week without duties, talk with the brother about sharing.', released: true },
    ],
    notes: [{ week: 0, by: 'therapist', text: 'Cries when asked who looks after her.' }],
  },
  {
    therapist: 'ferreira', first: 'Sofia', last: 'Marques', born: '1991-05-09', phone: '+351 21 000 1122', address: 'Rua da Graça 88, 1170-169 Lisboa',
    emergency: 'Rui Marques (brother), +351 21 000 1123', insurance: 'P77310255',
    sessions: { from: -25, weeks: 6, time: '11:00', kind: 'in_person' },
    messages: [
      [-15, 'patient', 'Today would have been her birthday. I baked the cake anyway.'],
      [-15, 'therapist', 'I am glad you baked it. Bring me the recipe on Thursday, and her, if you like.'],
    ],
    records: [
      { day: -25, kind: 'diagnosis', text: 'Mother died in August after a short illness. Intense yearning, avoids the flat, works long hours. Normal grief at this point; observe.', icd: 'Z63.4', risk: 'none', released: true },
      { day: -11, kind: 'soap_note', text: 'S: went to the flat with the brother. O: sad and present. A: avoidance lessens. P: letter to the mother.' },
    ],
    notes: [{ week: 2, by: 'therapist', text: 'For next time: the letter may stay unfinished.', released: true }],
  },
  {
    therapist: 'ferreira', first: 'Peter', last: 'Lindqvist', born: '1965-01-22', phone: '+46 8 123 456', address: 'Götgatan 14, 118 46 Stockholm',
    emergency: 'Karin Lindqvist (wife), +46 8 123 457', insurance: 'SE650122-1417',
    sessions: { from: -24, weeks: 6, time: '08:00', kind: 'video' },
    messages: [
      [-10, 'patient', 'The dream came back twice this week. I wrote it down as you said, the third time with another ending.'],
      [-9, 'therapist', 'Well done. Read the other ending aloud before you go to bed, each evening until we speak.'],
    ],
    records: [
      { day: -24, kind: 'diagnosis', text: 'Road accident in February as first on the scene. Nightmares three to four a week, startle, avoids driving in the dark. PCL-5: 41.', icd: 'F43.1', risk: 'low', released: true },
      { day: -17, kind: 'plan', text: 'Imagery rehearsal for the nightmares, then prolonged exposure in six steps, the last one driving the road itself.', released: true },
      { day: -10, kind: 'soap_note', text: 'S: nightmares down to two. O: tells the accident in order for the first time. A: on course. P: step two.' },
    ],
    notes: [],
  },
  {
    therapist: 'ferreira', first: 'Daniel', last: 'Roth', born: '1983-09-14', phone: '+49 89 123456', address: 'Baaderstraße 7, 80469 München',
    emergency: 'Eva Roth, +49 89 123457', insurance: 'R990017344',
    sessions: { from: -9, weeks: 4, time: '13:30', kind: 'video' },
    messages: [
      [-3, 'therapist', 'Before we meet again: please write down three moments of the week in which you did not think about the move.'],
      [-2, 'patient', 'Will do. I have one already: teaching my daughter to whistle.'],
    ],
    records: [
      { day: -9, kind: 'diagnosis', text: 'Separation in spring, moved out in September, sees the children every other week. Sleeps five hours, irritable at work. Drinks less than he feared.', icd: 'F43.2', risk: 'none' },
    ],
    notes: [{ week: 0, by: 'patient', text: 'I would like to talk about the holidays early.' }],
  },
]
