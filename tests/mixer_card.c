/* A mixer without a sound card, for alsa-lib's external control interface: real libasound on our side of it.
 *
 *   ctl_type.quietbox { lib "mixer_card.so" }
 *   ctl.spk { type quietbox state "levels" }
 *
 * "levels" holds one line of four numbers for each control that amixer would show: volume left, right, switch left,
 * right. Writing them changes the mixer under everybody's hands, as another program would.
 */
#include <alsa/asoundlib.h>
#include <alsa/control_external.h>
#include <stdio.h>

enum { CONTROLS = 4, ELEMENTS = 7, LEFT = 0, SWITCH = 2 };

static const struct {
	const char *name;
	int has_db;
	long low, high;
} controls[CONTROLS] = {
	{"PCM", 1, -10239, 400},	/* the Pi's jack: hundredths of a dB, up to +4 dB */
	{"Speaker", 0, 0, 31},	/* a dongle that does not say what its steps mean */
	{"Mic", 1, 0, 100},		/* the microphone heard in the headphone: none of our business */
	{"Headphone", 1, -6400, -300},	/* never reaches 0 dB, and has no switch: the last element is missing */
};

/* dB scales, in hundredths of a dB, from low to high of each control */
static const unsigned int scales[CONTROLS][4] = {
	{SND_CTL_TLVT_DB_MINMAX, 8, (unsigned int)-10239, 400},
	{0, 0, 0, 0},
	{SND_CTL_TLVT_DB_MINMAX, 8, (unsigned int)-2000, 1000},
	{SND_CTL_TLVT_DB_MINMAX, 8, (unsigned int)-6400, (unsigned int)-300},
};

struct card {
	snd_ctl_ext_t ext;
	char path[4096];
};

static void load(snd_ctl_ext_t *ext, long values[CONTROLS][4])
{
	FILE *file = fopen(((struct card *)ext->private_data)->path, "r");
	for (int i = 0; i < CONTROLS; i++)
		for (int k = 0; k < 4; k++)
			if (!file || fscanf(file, "%ld", &values[i][k]) != 1)
				values[i][k] = 0;
	if (file)
		fclose(file);
}

static void save(snd_ctl_ext_t *ext, long values[CONTROLS][4])
{
	FILE *file = fopen(((struct card *)ext->private_data)->path, "w");
	for (int i = 0; i < CONTROLS; i++)
		fprintf(file, "%ld %ld %ld %ld\n", values[i][0], values[i][1], values[i][2], values[i][3]);
	fclose(file);
}

/* keys: 2 x control, + 1 for its switch */
static int count(snd_ctl_ext_t *ext)
{
	(void)ext;
	return ELEMENTS;
}

static int list(snd_ctl_ext_t *ext, unsigned int offset, snd_ctl_elem_id_t *id)
{
	char name[64];
	(void)ext;
	snprintf(name, sizeof(name), "%s Playback %s", controls[offset / 2].name, offset % 2 ? "Switch" : "Volume");
	snd_ctl_elem_id_set_interface(id, SND_CTL_ELEM_IFACE_MIXER);
	snd_ctl_elem_id_set_name(id, name);
	snd_ctl_elem_id_set_numid(id, offset + 1);
	return 0;
}

static snd_ctl_ext_key_t find(snd_ctl_ext_t *ext, const snd_ctl_elem_id_t *id)
{
	unsigned int number = snd_ctl_elem_id_get_numid(id);
	char name[64];
	(void)ext;
	if (number)
		return number - 1;
	for (int i = 0; i < ELEMENTS; i++) {
		snprintf(name, sizeof(name), "%s Playback %s", controls[i / 2].name, i % 2 ? "Switch" : "Volume");
		if (!strcmp(name, snd_ctl_elem_id_get_name(id)))
			return i;
	}
	return SND_CTL_EXT_KEY_NOT_FOUND;
}

static int tlv(snd_ctl_ext_t *ext, snd_ctl_ext_key_t key, int op, unsigned int numid, unsigned int *out, unsigned int size)
{
	(void)ext, (void)op, (void)numid;
	if (key % 2 || !controls[key / 2].has_db || size < sizeof(scales[0]))
		return -ENXIO;
	memcpy(out, scales[key / 2], sizeof(scales[0]));
	return 0;
}

static int attribute(snd_ctl_ext_t *ext, snd_ctl_ext_key_t key, int *type, unsigned int *access, unsigned int *values)
{
	(void)ext;
	*type = key % 2 ? SND_CTL_ELEM_TYPE_BOOLEAN : SND_CTL_ELEM_TYPE_INTEGER;
	*access = SND_CTL_EXT_ACCESS_READWRITE;
	if (!(key % 2) && controls[key / 2].has_db)
		*access |= SND_CTL_EXT_ACCESS_TLV_READ | SND_CTL_EXT_ACCESS_TLV_CALLBACK;
	*values = 2;
	return 0;
}

static int range(snd_ctl_ext_t *ext, snd_ctl_ext_key_t key, long *low, long *high, long *step)
{
	(void)ext;
	*low = key % 2 ? 0 : controls[key / 2].low;
	*high = key % 2 ? 1 : controls[key / 2].high;
	*step = 1;
	return 0;
}

static int get(snd_ctl_ext_t *ext, snd_ctl_ext_key_t key, long *value)
{
	long values[CONTROLS][4];
	load(ext, values);
	memcpy(value, &values[key / 2][key % 2 ? SWITCH : LEFT], 2 * sizeof(*value));
	return 0;
}

static int put(snd_ctl_ext_t *ext, snd_ctl_ext_key_t key, long *value)
{
	long values[CONTROLS][4];
	load(ext, values);
	memcpy(&values[key / 2][key % 2 ? SWITCH : LEFT], value, 2 * sizeof(*value));
	save(ext, values);
	return 1;
}

static int event(snd_ctl_ext_t *ext, snd_ctl_elem_id_t *id, unsigned int *mask)
{
	(void)ext, (void)id, (void)mask;
	return -EAGAIN;
}

static void finish(snd_ctl_ext_t *ext)
{
	free(ext->private_data);
}

static const snd_ctl_ext_callback_t calls = {
	.close = finish, .elem_count = count, .elem_list = list, .find_elem = find, .get_attribute = attribute,
	.get_integer_info = range, .read_integer = get, .write_integer = put, .read_event = event,
};

SND_CTL_PLUGIN_DEFINE_FUNC(quietbox)
{
	const char *path = "";
	snd_config_t *found;
	struct card *card = calloc(1, sizeof(*card));
	int error;
	(void)root;
	if (!snd_config_search(conf, "state", &found))
		snd_config_get_string(found, &path);
	snprintf(card->path, sizeof(card->path), "%s", path);
	card->ext.version = SND_CTL_EXT_VERSION;
	card->ext.card_idx = 0;
	strcpy(card->ext.id, "quietbox");
	strcpy(card->ext.driver, "quietbox");
	strcpy(card->ext.name, "mixer without a card");
	strcpy(card->ext.mixername, "quietbox");
	card->ext.poll_fd = -1;
	card->ext.callback = &calls;
	card->ext.private_data = card;
	card->ext.tlv.c = tlv;
	error = snd_ctl_ext_create(&card->ext, name, mode);
	if (error < 0) {
		free(card);
		return error;
	}
	*handlep = card->ext.handle;
	return 0;
}

SND_CTL_PLUGIN_SYMBOL(quietbox)
